-- Carts: each operation is decided at once, and its entry carries the line's quantity afterwards. A cart that is here
-- is what there is; one that is not is loaded by whoever wants to change it, from the database: a cart leaves Redis
-- only when nothing of it waits any more (the worker that has retired it lets it expire).

local CART_KEY_MILLIS = 20 * 60 * 1000
local LOADING_MILLIS = 60 * 1000
local ADD, SET = 0, 1

-- What a line of `before` becomes; nothing where that is more than a line may hold.
local function cart_line(op, quantity, before)
  local after = op == ADD and before + quantity or op == SET and quantity or 0
  return after <= CART_QUANTITY_MAX and after or nil
end

-- Takes what a caller has loaded, if it was asked to with this number; what is here counts more. Lines are 4 bytes of
-- units, a length and the sku.
local function take_base(ctx, key, loading, number, base)
  if redis.call("GET", loading) ~= number then
    return false
  end
  redis.call("DEL", loading)
  local version, at, fields = struct.unpack("<I8", base), 9, {}
  while at <= #base do
    local quantity, len = struct.unpack("<I4B", base, at)
    fields[#fields + 1], fields[#fields + 2] = string.sub(base, at + 5, at + 4 + len), text(quantity)
    at = at + 5 + len
  end
  redis.call("HSET", key, "", text(version), unpack(fields))
  return true
end

-- An operation on a line: a repeated key, whether the cart is here, what it may hold.
local function cart(ctx, bytes)
  local op, quantity, address, has_key, key, payload, user_len = struct.unpack("<BI4c8Bc16c8B", bytes)
  local at = 40 + user_len
  local user, sku_len = string.sub(bytes, 40, at - 1), string.byte(bytes, at)
  local sku, number_len = string.sub(bytes, at + 1, at + sku_len), string.byte(bytes, at + sku_len + 1)
  at = at + sku_len + 2
  local number, base = string.sub(bytes, at, at + number_len - 1), string.sub(bytes, at + number_len)
  local remembered = ctx.prefix .. "y:" .. key
  if has_key == 1 then
    local first = redis.call("GET", remembered)
    if first then
      return string.sub(first, 1, 8) == payload and "P" .. string.sub(first, 9) or "K"
    end
  end
  local here, loading = ctx.prefix .. "t:" .. user, ctx.prefix .. "l:" .. user
  if redis.call("EXISTS", here) == 0 and not (number ~= "" and take_base(ctx, here, loading, number, base)) then
    local asked = redis.call("GET", loading)
    if not asked then
      asked = text(redis.call("HINCRBY", ctx.key, "loads", 1))
      redis.call("SET", loading, asked, "PX", LOADING_MILLIS)
    end
    return "l" .. asked
  end
  local before = tonumber(redis.call("HGET", here, sku)) or 0
  local after = cart_line(op, quantity, before)
  -- One field is the cart's version.
  if not after or (before == 0 and after > 0 and redis.call("HLEN", here) > CART_LINES_MAX) then
    return "f"
  elseif #ctx.entries >= ctx.room then
    return "F"
  end
  local seq = enter(ctx, nil, struct.pack("<BBBBBBI4I4c8", 6, 2 * has_key, op, 0, 0, 0, quantity, after, address)
    .. (has_key == 1 and key .. payload or "") .. string.char(user_len) .. user .. string.char(sku_len) .. sku)
  if after > 0 then
    redis.call("HSET", here, "", text(seq), sku, text(after))
  else
    redis.call("HDEL", here, sku)
    redis.call("HSET", here, "", text(seq))
  end
  -- Until the database has it, nothing but this knows.
  redis.call("PERSIST", here)
  if has_key == 1 then
    redis.call("SET", remembered, payload .. struct.pack("<I8", seq), "PX", CART_KEY_MILLIS)
  end
  return struct.pack("<c1I8", "A", seq)
end

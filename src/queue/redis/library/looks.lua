-- What is looked up on behalf of gates, beside the commands of a call and after those before them.

-- Waiting claims and ends of a tag: seq, item of the list, seq, item...
local function look_claim(ctx, tag)
  local found = {}
  for _, seq in ipairs(remembered(ctx.index, tag, ctx.retired)) do
    found[#found + 1] = text(seq)
    if seq > ctx.before then
      found[#found + 1] = ctx.entries[seq - ctx.before]
    else
      found[#found + 1] = assert(redis.call("LINDEX", ctx.prefix .. "list", seq - ctx.retired - 1), "an entry of a tag")
    end
  end
  return found
end

-- What waits of the entries from a position on, so many: seq, item of the list, seq, item... What this call has made is not in it.
local function look_entries(ctx, bytes)
  local first, count = struct.unpack("<I8I4", bytes)
  local from, found = math.max(first, ctx.retired + 1), {}
  local upto = math.min(first + count - 1, ctx.before)
  if from <= upto then
    local list = ctx.prefix .. "list"
    for i, item in ipairs(redis.call("LRANGE", list, from - ctx.retired - 1, upto - ctx.retired - 1)) do
      found[2 * i - 1], found[2 * i] = text(from + i - 1), item
    end
  end
  return found
end

-- A cart: the position of its last operation, then sku, units, sku, units... Nothing where only the database has it.
local function look_cart(ctx, user)
  local found, cart = redis.call("HGETALL", ctx.prefix .. "t:" .. user), {}
  for i = 1, #found, 2 do
    if found[i] == "" then
      cart[1] = found[i + 1]
    end
  end
  for i = 1, #found, 2 do
    if found[i] ~= "" then
      cart[#cart + 1], cart[#cart + 2] = found[i], found[i + 1]
    end
  end
  return cart
end

-- All units and those that nobody holds, all money and what nobody holds of it, as src/queue/campaign.rs has them.
local function stock_of(c)
  if c.kind == CHECK_IN then
    return c.acknowledged, 0, c.points * c.acknowledged, 0
  elseif c.kind == RED_PACKET then
    return c.stock, c.free, c.total, c.left
  end
  local price = math.max(c.price, 0)
  return c.stock, c.free, price * c.stock, price * c.free
end

-- What a campaign's balance is made of. Nothing where there is no such campaign.
local function look_balance(ctx, bytes)
  local c = campaign(ctx, struct.unpack("<I4", bytes))
  if not c then
    return {}
  end
  local stock, free, total, left = stock_of(c)
  local found = { text(stock), text(free), text(total), text(left) }
  for _, sum in ipairs({ "waiting", "settling", "returning" }) do
    found[#found + 1], found[#found + 2] = text(c[sum]), text(c[sum .. "_money"])
  end
  for _, sum in ipairs(redis.call("HMGET", ctx.prefix .. "z:" .. c.name, unpack(STORED))) do
    found[#found + 1] = sum or "0"
  end
  return found
end

-- A campaign as a change of it needs to know it: its number and FIELDS (8 bytes each), its definition, its seed, how many of a
-- packet's shares were never given out, their money, and that of the first ones of them, as many as were asked for.
local function look_campaign(ctx, bytes)
  local no, margin = struct.unpack("<I4I4", bytes)
  local c = campaign(ctx, no)
  if not c then
    return {}
  end
  local packed = { struct.pack("<i8", no) }
  for i, field in ipairs(FIELDS) do
    packed[i + 1] = struct.pack("<i8", c[field])
  end
  local about = redis.call("HMGET", ctx.prefix .. "c:" .. c.name, "spec", "seed")
  local returned, kept = 0, 0
  for _, share in ipairs(redis.call("LRANGE", c.r, 0, -1)) do
    returned = returned + tonumber(share)
  end
  for _, share in ipairs(margin > 0 and redis.call("LRANGE", c.s, 0, margin - 1) or {}) do
    kept = kept + tonumber(share)
  end
  return { table.concat(packed), about[1], about[2], text(redis.call("LLEN", c.s)), text(c.left - returned), text(kept) }
end

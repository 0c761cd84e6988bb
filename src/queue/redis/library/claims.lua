-- Claims and their ends.

-- What a buyer holds, read; the oldest first.
local function read_holds(bytes)
  local held = {}
  for at = 1, #bytes, HOLD_BYTES do
    local id, quantity, hold, settled, amount = struct.unpack(HOLD, bytes, at)
    held[#held + 1] = { id = id, quantity = quantity, hold = hold, settled = settled, amount = amount }
  end
  return held
end

local function holds_of(c, user)
  return read_holds(redis.call("HGET", c.h, user) or "")
end

local function keep_holds(c, user, held)
  local all = {}
  for i, h in ipairs(held) do
    all[i] = struct.pack(HOLD, h.id, h.quantity, h.hold, h.settled, h.amount)
  end
  if #all > 0 then
    redis.call("HSET", c.h, user, table.concat(all))
  else
    redis.call("HDEL", c.h, user)
  end
end

local function lowest_free_hold(held)
  local taken, hold = {}, 0
  for _, h in ipairs(held) do
    taken[h.hold] = true
  end
  while taken[hold] do
    hold = hold + 1
  end
  return hold
end

-- Why nothing can be claimed now, if so.
local function refusal(ctx, c)
  if c.wish == CLOSED or ctx.now >= c.closes then
    return "E"
  elseif c.wish == PAUSED then
    return "U"
  elseif ctx.now < c.opens then
    return struct.pack("<c1i8", "N", c.opens)
  end
end

-- A check-in's local day, among those that the gate worked out around its own time: number, from, to.
local function day_of(now, days)
  for at = 1, #days, 18 do
    local day, from, to = struct.unpack("<I2i8i8", days, at)
    if from <= now and now < to then
      return day
    end
  end
end

-- Yesterday's buyers go; the keys stay a day longer.
local function enter_day(c, day)
  if c.today ~= -1 and c.today ~= day then
    redis.call("UNLINK", c.h, c.o)
    if redis.call("EXISTS", c.k) == 1 then
      redis.call("RENAME", c.k, c.o)
    end
  end
  c.today = day
end

-- Units in what a buyer holds.
local function units_of(bytes)
  local units = 0
  for at = 17, #bytes, HOLD_BYTES do
    units = units + struct.unpack("<I4", bytes, at)
  end
  return units
end

-- Why a claim can't be accepted now, if so: the window, the stock, the buffer.
local function turned_down(ctx, c, quantity)
  local refused = refusal(ctx, c)
  if refused then
    return refused
  elseif c.kind ~= CHECK_IN and quantity > c.free then
    return struct.pack("<c1I8", "S", c.stock_version)
  elseif #ctx.entries >= ctx.room then
    return "F"
  end
end

-- Takes what a claim is worth. A share that came back goes out again with its amount, before any that was never given out.
local function take_amount(c, quantity)
  if c.kind == RED_PACKET then
    local from = c.returned > 0 and c.r or c.s
    return assert(tonumber(redis.call("LPOP", from)), "a share that is not in " .. from), from
  elseif c.kind == CHECK_IN then
    return c.points
  end
  return c.price >= 0 and c.price * quantity or -1
end

-- What accepting changes in the campaign's own numbers.
local function count(c, quantity, amount)
  c.acknowledged, c.waiting = c.acknowledged + quantity, c.waiting + quantity
  if amount >= 0 then
    c.waiting_money = c.waiting_money + amount
  end
  if c.kind ~= CHECK_IN then
    c.free = c.free - quantity
  end
  if c.kind == RED_PACKET then
    c.left = c.left - amount
    if c.returned > 0 then
      c.returned = c.returned - 1
    else
      c.drawn = c.drawn + 1
    end
  end
end

-- A claim in the list.
local function claim_item(ctx, no, quantity, hold, receipt_key, id, amount, key, user)
  local now, len = ctx.now, 31 + #user
  if amount < 0 and not key then
    return struct.pack("<i8I2BBI4I4I2I2c16Bc0", now, len, 1, 0, no, quantity, hold, receipt_key, id, #user, user)
  elseif not key then
    return struct.pack("<i8I2BBI4I4I2I2c16i8Bc0", now, len + 8, 1, 1, no, quantity, hold, receipt_key, id, amount,
      #user, user)
  elseif amount < 0 then
    return struct.pack("<i8I2BBI4I4I2I2c16c16Bc0", now, len + 16, 1, 2, no, quantity, hold, receipt_key, id, key,
      #user, user)
  end
  return struct.pack("<i8I2BBI4I4I2I2c16i8c16Bc0", now, len + 24, 1, 3, no, quantity, hold, receipt_key, id, amount, key,
    #user, user)
end

-- A claim, in the book's order: a repeated key, what the buyer may ask, what the buyer holds, the window, the stock. Where
-- nobody may hold two, whether the buyer holds one already is seen in writing the new one: one call of Redis, not two. `bytes` begin with the letter.
local function claim(ctx, bytes)
  local no, quantity, receipt_key, has_key, durability, id, key, user, at = struct.unpack("<I4I4I2BBc16c16Bc0", bytes, 2)
  local c = campaign(ctx, no)
  if not c then
    return "?"
  end
  if has_key == 1 then
    local first = redis.call("HGET", c.k, key) or (c.kind == CHECK_IN and redis.call("HGET", c.o, key))
    if first then
      return struct.unpack("<I4", first) == quantity and "P" .. first or "K"
    end
  end
  if quantity == 0 or quantity > c.limit or ((c.kind == RED_PACKET or c.kind == CHECK_IN) and quantity ~= 1) then
    return struct.pack("<c1I8", "L", c.limit)
  end
  local day = c.kind == CHECK_IN and day_of(ctx.now, string.sub(bytes, at))
  if day == nil then
    return "Z"
  end
  -- What was held on a day that is over counts no more.
  local is_single, counts, held = c.limit == 1, not day or day == c.today, ""
  if counts and not is_single then
    held = redis.call("HGET", c.h, user) or ""
    if held ~= "" and units_of(held) + quantity > c.limit then
      return "H" .. string.sub(held, 1, 16)
    end
  end
  local refused = turned_down(ctx, c, quantity)
  if refused then
    local mine = is_single and counts and redis.call("HGET", c.h, user)
    return mine and "H" .. string.sub(mine, 1, 16) or refused
  end
  if day then
    enter_day(c, day)
  end
  local hold = day or (held == "" and 0 or lowest_free_hold(read_holds(held)))
  local amount, from = take_amount(c, quantity)
  local record = struct.pack(HOLD, id, quantity, hold, 0, amount)
  if not is_single then
    redis.call("HSET", c.h, user, held .. record)
  elseif redis.call("HSETNX", c.h, user, record) == 0 then
    if from then
      redis.call("LPUSH", from, text(amount))
    end
    return "H" .. string.sub(redis.call("HGET", c.h, user), 1, 16)
  end
  count(c, quantity, amount)
  local seq = enter_item(ctx, c, claim_item(ctx, no, quantity, hold, receipt_key, id, amount, has_key == 1 and key, user))
  remember(ctx.index, tag_at(id, 7), seq)
  if has_key == 1 then
    local first = struct.pack(FIRST, quantity, id, amount, receipt_key, seq, ctx.now, durability)
    redis.call("HSET", c.k, key, first)
  end
  if c.ttl >= 0 then
    redis.call("RPUSH", c.d, struct.pack("<i8c16", ctx.now + c.ttl, id) .. user)
  end
  return struct.pack("<c1I8i8i8", "A", seq, ctx.now, amount)
end

-- Brings the n-th of what a buyer holds to its end.
local function move(ctx, c, user, held, n, to, by, reason)
  local h = held[n]
  local flags = h.amount >= 0 and 1 or 0
  local seq = enter(ctx, c, struct.pack("<BBI4I4BBBBc16", 4, flags, c.no, h.quantity, to, 0, 0, 0, h.id)
    .. (flags == 1 and struct.pack("<i8", h.amount) or "")
    .. string.char(#by) .. by .. string.char(#reason) .. reason)
  remember(ctx.index, tag_at(h.id, 7), seq)
  local sum = to == SETTLED and "settling" or "returning"
  c[sum], c[sum .. "_money"] = c[sum] + h.quantity, c[sum .. "_money"] + math.max(h.amount, 0)
  if to == SETTLED then
    h.settled = 1
  else
    table.remove(held, n)
    c.free = c.free + h.quantity
    c.stock_version = c.stock_version + 1
    if c.kind == RED_PACKET then
      c.left, c.returned = c.left + h.amount, c.returned + 1
      redis.call("LPUSH", c.r, text(h.amount))
    end
  end
  keep_holds(c, user, held)
  return seq
end

-- The end of a claim that somebody asks for.
local function move_asked(ctx, bytes)
  local no, to, id, user_len = struct.unpack("<I4Bc16B", bytes)
  local at = 23 + user_len
  local user, by_len = string.sub(bytes, 23, at - 1), string.byte(bytes, at)
  local by, reason = string.sub(bytes, at + 1, at + by_len), string.sub(bytes, at + by_len + 2)
  local c = campaign(ctx, no)
  if not c then
    return "n"
  elseif c.kind == CHECK_IN then
    return "c"
  elseif c.released == 1 then
    return "r"
  end
  local held = holds_of(c, user)
  for n, h in ipairs(held) do
    if h.id == id then
      if h.settled == 1 then
        return to == SETTLED and "d" or "s"
      end
      return struct.pack("<c1I8", "m", move(ctx, c, user, held, n, to, by, reason))
    end
  end
  return "n"
end

-- What time brings about.

-- What of a campaign falls due first: when, whose it is, what that buyer holds, and which of that it is. Claims that
-- were settled or given back since are taken off the list.
local function first_due(c)
  while true do
    local first = redis.call("LINDEX", c.d, 0)
    if not first then
      return nil
    end
    local id, user = string.sub(first, 9, DUE_BYTES), string.sub(first, DUE_BYTES + 1)
    local held = holds_of(c, user)
    for n, h in ipairs(held) do
      if h.id == id and h.settled == 0 then
        local due = struct.unpack("<i8", first)
        return due, user, held, n
      end
    end
    redis.call("LPOP", c.d)
  end
end

-- Lets claims expire that were due at `upto`, the campaigns in the order of their numbers and the oldest claim of each
-- first, at most `most` in all; how many, and whether there may be more.
local function expire(ctx, upto, most)
  local numbers, done = {}, 0
  for _, no in ipairs(redis.call("HKEYS", ctx.prefix .. "x")) do
    numbers[#numbers + 1] = tonumber(no)
  end
  table.sort(numbers)
  for _, no in ipairs(numbers) do
    local c = campaign(ctx, no)
    local due, user, held, n = first_due(c)
    while due and due <= upto do
      if done == most then
        return done, true
      end
      redis.call("LPOP", c.d)
      move(ctx, c, user, held, n, EXPIRED, "", "")
      done = done + 1
      due, user, held, n = first_due(c)
    end
  end
  return done, false
end

-- Has the first campaign from number `from` to `to` leave memory that was over `after` ago at `upto`, and is in the
-- database as a whole; whether there was one.
local function release(ctx, from, to, upto, after, retired)
  for no = from, math.min(to, ctx.campaigns) - 1 do
    local c = campaign(ctx, no)
    local over = c.closed_at >= 0 and math.min(c.closed_at, c.closes) or c.closes
    if c.released == 0 and over + after <= upto and c.last <= retired and not first_due(c) then
      redis.call("UNLINK", c.h, c.k, c.o, c.a, c.b, c.s, c.r, c.d)
      redis.call("HDEL", ctx.prefix .. "x", c.name)
      c.wish, c.released, c.version, c.returned = CLOSED, 1, c.version + 1, 0
      enter(ctx, c, struct.pack("<BBI4", 5, 0, no))
      return true
    end
  end
  return false
end

-- Operators' wishes: new campaigns, and changes of them.

-- Whether an operator's key was used: "=" for the same, "K" for something else.
local function asked_before(c, key, digest)
  local seen = redis.call("HGET", c.a, key)
  if seen then
    return seen == digest and "=" or "K"
  end
end

local function remember_asked(c, key, digest)
  if redis.call("RPUSH", c.b, key) > ADMIN_KEYS_MAX then
    redis.call("HDEL", c.a, redis.call("LPOP", c.b))
  end
  redis.call("HSET", c.a, key, digest)
end

-- A new campaign. The gate has checked its definition; `entry` is the journal's, in which only the number is still
-- open. A red packet's shares lie in the list `shares` already, which becomes the campaign's.
local function create(ctx, name, has_key, key, digest, spec, entry, numbers, shares, seed)
  local there = redis.call("HGET", ctx.prefix .. "ids", name)
  if there then
    local c = campaign(ctx, tonumber(there))
    local before = has_key and asked_before(c, key, digest)
    if before then
      return before == "=" and struct.pack("<c1I4", "i", c.no) or "K"
    end
    local same = redis.call("HGET", ctx.prefix .. "c:" .. c.name, "spec") == spec
    return same and struct.pack("<c1I4", "i", c.no) or "x"
  end
  local no = ctx.campaigns
  local kind, opens, closes, limit, stock, price, points, ttl, total, min, max =
    struct.unpack("<Bi8i8I8I8i8i8i8i8i8i8", numbers)
  local id = text(no)
  local c = { kind = kind, wish = 0, opens = opens, closes = closes, limit = limit, stock = stock, free = stock,
    left = total, price = price, points = points, ttl = ttl, version = 1, stock_version = 1, drawn = 0, returned = 0,
    acknowledged = 0, closed_at = -1, released = 0, last = 0, today = -1, total = total, min = min, max = max, waiting = 0,
    waiting_money = 0, settling = 0, settling_money = 0, returning = 0, returning_money = 0 }
  local fields = { "id", name, "spec", spec, "seed", seed }
  for _, field in ipairs(FIELDS) do
    fields[#fields + 1], fields[#fields + 2] = field, text(c[field])
  end
  redis.call("HSET", ctx.prefix .. "c:" .. id, unpack(fields))
  redis.call("HSET", ctx.prefix .. "ids", name, id)
  ctx.campaigns = no + 1
  c = campaign(ctx, no)
  if kind == RED_PACKET then
    redis.call("RENAME", ctx.prefix .. shares, c.s)
    redis.call("PERSIST", c.s)
  end
  if ttl >= 0 then
    redis.call("HSET", ctx.prefix .. "x", id, "1")
  end
  if has_key then
    remember_asked(c, key, digest)
  end
  enter(ctx, c, string.sub(entry, 1, 2) .. struct.pack("<I4", no) .. string.sub(entry, 7))
  return struct.pack("<c1I4", "C", no)
end

local PATCH = "<BBi8Bi8i8i8" -- wish (255: as it is), has opens, opens, has closes, closes, more stock, more money

-- Puts shares that a gate has laid ready in the place of those from position `from` on. The ones before it stay: they were
-- drawn while a gate worked the others out, or may be.
local function relay(ctx, c, shares, from)
  local laid = ctx.prefix .. shares
  local kept = from - c.drawn
  for at = kept, 1, -ARGUMENTS do
    local some, turned = redis.call("LRANGE", c.s, math.max(at - ARGUMENTS, 0), at - 1), {}
    for i = 1, #some do
      turned[i] = some[#some + 1 - i]
    end
    assert(#some == math.min(at, ARGUMENTS), "a packet with fewer shares than were seen")
    redis.call("LPUSH", laid, unpack(turned))
  end
  redis.call("UNLINK", c.s)
  if redis.call("EXISTS", laid) == 1 then
    redis.call("RENAME", laid, c.s)
    redis.call("PERSIST", c.s)
  end
end

-- A change. The gate has checked what needs no state, and the shares that a red packet has afterwards from position `from`
-- on; `seen` says of which state it did so. Where that is not the state any more it has to look again.
local function change(ctx, name, has_key, key, digest, spec, entry, patch, shares, seen, closes_only)
  local there = redis.call("HGET", ctx.prefix .. "ids", name)
  if not there then
    return "?"
  end
  local c = campaign(ctx, tonumber(there))
  local before = has_key and asked_before(c, key, digest)
  if before then
    return before == "=" and struct.pack("<c1I4", "=", c.no) or "K"
  end
  if c.wish == CLOSED then
    return closes_only and struct.pack("<c1I4", "G", c.no) or "w"
  end
  local wish, has_opens, opens, has_closes, closes, more, money = struct.unpack(PATCH, patch)
  local version, from = struct.unpack("<I8I8", seen)
  -- What a gate checked of stock and money depends on no more than this. Shares that were given back are no part of it:
  -- they go out again as they are.
  if version ~= c.version or (c.kind == RED_PACKET and (more ~= 0 or money ~= 0) and from < c.drawn) then
    return "@"
  elseif c.kind ~= CHECK_IN and c.free + more < 0 then
    return "@"
  end
  opens, closes = has_opens == 1 and opens or c.opens, has_closes == 1 and closes or c.closes
  c.opens, c.closes = opens, closes
  if more ~= 0 or money ~= 0 then
    c.free, c.stock, c.left, c.total = c.free + more, c.stock + more, c.left + money, c.total + money
    if more ~= 0 then
      c.stock_version = c.stock_version + 1
    end
    if c.kind == RED_PACKET then
      relay(ctx, c, shares, from)
    end
  end
  if wish ~= 255 then
    c.wish = wish
  end
  if c.wish == CLOSED and c.closed_at < 0 then
    c.closed_at = ctx.now
  end
  c.version = c.version + 1
  redis.call("HSET", ctx.prefix .. "c:" .. c.name, "spec", spec)
  if has_key then
    remember_asked(c, key, digest)
  end
  enter(ctx, c, string.sub(entry, 1, 2) .. struct.pack("<I4", c.no) .. string.sub(entry, 7))
  return struct.pack("<c1I4", "G", c.no)
end

-- Fields of an operator's command, each behind its length.
local function pieces(bytes)
  local all, at = {}, 1
  while at <= #bytes do
    local len = struct.unpack("<I4", bytes, at)
    all[#all + 1] = string.sub(bytes, at + 4, at + 3 + len)
    at = at + 4 + len
  end
  return all
end

local function admin(ctx, bytes)
  local p = pieces(bytes)
  local has_key = p[3] ~= ""
  if p[1] == "create" then
    return create(ctx, p[2], has_key, p[3], p[4], p[5], p[6], p[7], p[8], p[9])
  end
  return change(ctx, p[2], has_key, p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10] == "1")
end

-- Admission in Redis: the book's rules, atomically, for many gates. The book is src/queue/book.rs; tests/shared holds
-- the two against each other, outcome by outcome and entry by entry.
--
-- One call decides many commands. Redis runs it as a whole or, out of memory, not at all: that is looked at before a
-- function without the flag allow-oom begins, and never again once it has written. Only a fault of this text can stop
-- it half-way: then the partition is fenced, because nobody knows what of the command was done.
--
-- Every key begins with the partition's prefix, which carries the hash tag, so that all of them lie in one slot:
--   meta      hash    layout, epoch, fenced; seq and time of the last entry (microseconds), campaigns; retired, worker,
--                     until (whose lease, to when); loads
--   list      list    entries that the database hasn't got, the oldest first: time (8 bytes), then the journal's bytes
--   ids       hash    campaign name -> number
--   c:<no>    hash    a campaign
--   h:<no>    hash    buyer -> what the buyer holds: records of 41 bytes one behind the other, the oldest first
--   k:<no>    hash    idempotency key -> the first answer; o:<no> those of a check-in's day before
--   a:<no>    hash    operators' idempotency keys -> a digest of what was asked; b:<no> the keys, the oldest first
--   s:<no>    list    a red packet's shares that were never given out, the next one first
--   r:<no>    list    shares that came back, the one that goes out next first
--   d:<no>    list    claims in the order in which they fall due: due (8 bytes), claim id (16), buyer
--   x         hash    numbers of campaigns whose claims fall due
--   t:<buyer> hash    a cart: sku -> units; under the empty name the position of its last operation
--   l:<buyer> string  the number under which somebody is to load a cart
--   y:<key>   string  a cart operation's idempotency key: a digest of what was asked (8 bytes), the position (8)
-- No number is above 2^53: the contract's bounds see to it, and Lua's numbers are exact up to there.

local LAYOUT = "1"
local RED_PACKET, CHECK_IN = 2, 4
local PAUSED, CLOSED = 1, 2
local SETTLED, EXPIRED = 0, 2
local HOLD = "<c16I4I4BI8i8" -- claim id, units, hold, settled, seq, amount (-1: none)
local HOLD_BYTES = 41
local DUE_BYTES = 24

local FIELDS = { "kind", "wish", "opens", "closes", "limit", "stock", "free", "left", "price", "points", "ttl",
  "version", "stock_version", "drawn", "returned", "acknowledged", "closed_at", "released", "last", "today",
  "total", "min", "max" }

local function text(n)
  return string.format("%.0f", n)
end

-- The time that counts: Redis' own, so that gates need not agree. A test gives its own.
local function now_micros(clock)
  local given = tonumber(clock)
  if given then
    return given
  end
  local time = redis.call("TIME")
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- What one call knows. Answers nil and a word where this gate may not ask.
local function begin(meta_key, epoch, clock)
  local meta = redis.call("HMGET", meta_key, "layout", "epoch", "seq", "time", "campaigns", "fenced")
  if not meta[1] then
    return nil, "EMPTY"
  elseif meta[1] ~= LAYOUT then
    return nil, "LAYOUT " .. meta[1]
  elseif meta[6] then
    return nil, "FENCED " .. meta[6]
  elseif meta[2] ~= epoch then
    return nil, "EPOCH " .. meta[2]
  end
  local last = tonumber(meta[4])
  return {
    key = meta_key, prefix = string.sub(meta_key, 1, -5), now = math.max(now_micros(clock), last), time = last,
    seq = tonumber(meta[3]), before = tonumber(meta[3]), campaigns = tonumber(meta[5]), entries = {}, loaded = {},
  }
end

local function campaign(ctx, no)
  local c = ctx.loaded[no]
  if c or no >= ctx.campaigns then
    return c
  end
  local name = text(no)
  local found = redis.call("HMGET", ctx.prefix .. "c:" .. name, unpack(FIELDS))
  c = { no = no, name = name, changed = false }
  for i, field in ipairs(FIELDS) do
    c[field] = assert(tonumber(found[i]), "campaign " .. name .. " has no " .. field)
  end
  for _, kind in ipairs({ "h", "k", "o", "a", "b", "s", "r", "d" }) do
    c[kind] = ctx.prefix .. kind .. ":" .. name
  end
  ctx.loaded[no] = c
  return c
end

-- An entry's bytes are the journal's: a length of two bytes, then the kind.
local function enter(ctx, c, bytes)
  ctx.seq = ctx.seq + 1
  ctx.time = ctx.now
  if c then
    c.last, c.changed = ctx.seq, true
  end
  ctx.entries[#ctx.entries + 1] = struct.pack("<i8I2", ctx.now, #bytes) .. bytes
  return ctx.seq
end

-- Writes what the call has gathered.
local function finish(ctx)
  for from = 1, #ctx.entries, 1000 do
    redis.call("RPUSH", ctx.prefix .. "list", unpack(ctx.entries, from, math.min(from + 999, #ctx.entries)))
  end
  for _, c in pairs(ctx.loaded) do
    if c.changed then
      local fields = {}
      for i, field in ipairs(FIELDS) do
        fields[2 * i - 1], fields[2 * i] = field, text(c[field])
      end
      redis.call("HSET", ctx.prefix .. "c:" .. c.name, unpack(fields))
    end
  end
  if ctx.seq > ctx.before then
    redis.call("HSET", ctx.key, "seq", text(ctx.seq), "time", text(ctx.time), "campaigns", text(ctx.campaigns))
  end
end

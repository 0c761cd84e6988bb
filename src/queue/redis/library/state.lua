-- Admission in Redis: the book's rules, atomically, for many gates. The book is src/queue/book.rs; tests/shared holds
-- the two against each other, outcome by outcome and entry by entry.
--
-- One call decides many commands. Redis runs it as a whole or, out of memory, not at all: that is looked at before a
-- function without the flag allow-oom begins, and never again once it has written. Only a fault of this text can stop
-- it half-way: then the partition is fenced, because nobody knows what of the command was done.
--
-- What was acknowledged may be lost by Redis in a restart or a failover. So admission needs, beside the keys, what no
-- restart survives and no replica gets: `opened`, a variable of this text. A worker sets it (`open`) once it has seen
-- to it that nothing is missing; where it is not set, or the keys are not those that this process has written last,
-- nothing is admitted. With it goes the index of what waits, by buyer: `open` makes it from the list, so it need be in
-- no key, no append-only file and no replica. It takes some 40 bytes an entry, which Redis does not count as its data.
--
-- Every key begins with the partition's prefix, which carries the hash tag, so that all of them lie in one slot. Numbers
-- are texts in decimal, in records they are little-endian; times are microseconds. What an opening lays out anew
-- (protocol/layout.rs has it in Rust) is all but the last four:
--   meta      hash    layout, epoch, identity (the database's, 32 hexadecimal digits); seq and time of the last entry,
--                     campaigns, retired; fenced (why, after a fault); loads (counts carts to load)
--                     worker, until: whose lease, to when; recovery, recovery_base: the token of an opening under way, and
--                     up to where nothing needs to be offered; opened_by: the token of the last one
--                     rebuilds: "<epoch>:<base>:<token> " for each opening that laid all this out anew
--                     L:<lane>: "<session> <nonce> <first seq> <entries>", the last call of the lane; lanes outlive openings
--   list      list    entries that the database hasn't got, the oldest first: time (8 bytes), then the journal's bytes
--   v         zset    campaign number -> seq of its last entry
--   ids       hash    campaign name -> number
--   c:<no>    hash    a campaign: id, spec (its definition as it stands), seed (16 bytes), and the FIELDS
--   z:<no>    hash    what the database has of it: persisted, settled, returned, dead, and the same with _money; no key: 0
--   h:<no>    hash    buyer -> what the buyer holds: records of HOLD one behind the other, the oldest first; of a check-in
--                     the buyers of `today`
--   k:<no>    hash    idempotency key (16 bytes) -> the first answer (FIRST); o:<no> those of a check-in's day before
--   a:<no>    hash    operators' idempotency keys (16 bytes) -> a digest of what was asked (8); b:<no> list of the keys, the
--                     oldest first
--   s:<no>    list    a red packet's shares that were never given out, the next one first
--   r:<no>    list    shares that came back, the one that goes out next first
--   d:<no>    list    claims in the order in which they fall due: due (8 bytes), claim id (16), buyer. Those that were paid
--                     or given back since may still be in it
--   x         hash    numbers of campaigns whose claims fall due -> 1; a released one is not in it
--   t:<buyer> hash    a cart: sku -> units; under the empty name the position of its last operation
--   l:<buyer> string  the number under which somebody is to load a cart
--   y:<key>   string  a cart operation's idempotency key (16 bytes): a digest of what was asked (8 bytes), the position (8)
--   new:<...> list    shares that a gate has laid ready for a packet
--   gates     hash    gate (32 hexadecimal digits) -> new, known or left
--   offers    hash    seq -> an item of the list, as gates offer them to an opening
--   offered   hash    gate -> "<token> <epoch> <seq>": it has offered all it has, the last of which is that
-- FIELDS: kind (1 sale, 2 packet, 3 coupon, 4 check-in), wish (0 open, 1 paused, 2 closed), the window, limit, stock and
-- free (a check-in: 0), left (a packet's money that nobody holds, returned shares included), price (-1: none), points,
-- ttl (-1: none), version, stock_version, drawn (shares that were ever given out for the first time), returned (shares that
-- are in r), acknowledged (units ever accepted), closed_at (-1: never), released (0, 1), last (seq of its last entry),
-- today (a check-in's day in h; -1: none), total, min, max (-1: none) of a packet; then units and money of what waits in
-- the list: claims (waiting), their ends that pay (settling) and that give back (returning).
-- No number is above 2^53: the contract's bounds see to it, and Lua's numbers are exact up to there.

local RED_PACKET, CHECK_IN = 2, 4
local PAUSED, CLOSED = 1, 2
local SETTLED, EXPIRED = 0, 2
local HOLD = "<c16I4I4Bi8" -- claim id, units, hold, settled, amount (-1: none)
local HOLD_BYTES = 33
local FIRST = "<I4c16i8I2I8i8B" -- units, claim id, amount, receipt key, seq, time, durability (0 disk, 1 memory)
local DUE_BYTES = 24

-- By the name of its meta, of each partition that this process has opened: the epoch; seq, its last entry then or since; index,
-- the seqs of waiting claims and ends by tag (one as a number, several as 8 bytes each), in tables `from` to `to`, and in bundles as
-- they came, under the numbers -`first` to -`last`.
local opened = {}

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

local function prefix_of(meta_key)
  return string.sub(meta_key, 1, -5)
end

-- Fields of meta in this order: the call's lane ("" for none), layout, epoch, seq, retired, fenced, recovery, time, campaigns.
local function read_meta(meta_key, lane)
  return redis.call("HMGET", meta_key, "L:" .. lane, "layout", "epoch", "seq", "retired", "fenced", "recovery", "time",
    "campaigns")
end

-- Entries that the list must hold.
local function waiting_by(meta)
  return tonumber(meta[4]) - tonumber(meta[5])
end

-- Why nothing may be done in a partition now, if so.
local function closed(meta_key, meta)
  if meta[7] then
    return "FENCED recovering"
  elseif not meta[2] then
    return "EMPTY"
  elseif meta[2] ~= LAYOUT then
    return "LAYOUT " .. meta[2]
  elseif meta[6] then
    return "FENCED " .. meta[6]
  end
  local here = opened[meta_key]
  if not here or here.epoch ~= meta[3] or here.seq ~= meta[4]
    or redis.call("LLEN", prefix_of(meta_key) .. "list") ~= waiting_by(meta) then
    return "CLOSED"
  end
end

-- What one call knows. Answers nil and a word where this caller may not ask. `lane` is one of a gate, "" of a worker.
local function begin(meta_key, epoch, clock, lane)
  local meta = read_meta(meta_key, lane)
  local why = closed(meta_key, meta)
  if why then
    return nil, why
  elseif meta[3] ~= epoch then
    return nil, "EPOCH " .. meta[3]
  end
  local last, seq = tonumber(meta[8]), tonumber(meta[4])
  local now = math.max(now_micros(clock), last)
  return {
    key = meta_key, prefix = prefix_of(meta_key), now = now, time = last, lane = meta[1] or "",
    seq = seq, before = seq, retired = tonumber(meta[5]), campaigns = tonumber(meta[9]),
    entries = {}, loaded = {}, index = opened[meta_key].index,
  }
end

-- The numbers of a campaign, by their names in FIELDS.
local function numbers_of(prefix, name)
  local found = redis.call("HMGET", prefix .. "c:" .. name, unpack(FIELDS))
  local c = { read = found }
  for i, field in ipairs(FIELDS) do
    local value = assert(tonumber(found[i]), "campaign " .. name .. " has no " .. field)
    c[field], found[i] = value, value
  end
  return c
end

local function campaign(ctx, no)
  local c = ctx.loaded[no]
  if c or no >= ctx.campaigns then
    return c
  end
  local name = text(no)
  c = numbers_of(ctx.prefix, name)
  c.no, c.name, c.changed = no, name, false
  for _, kind in ipairs({ "h", "k", "o", "a", "b", "s", "r", "d" }) do
    c[kind] = ctx.prefix .. kind .. ":" .. name
  end
  ctx.loaded[no] = c
  return c
end

-- Takes the next position for an item of the list: time, then the journal's bytes, which are a length of two bytes, the kind...
-- An item is made in one go where it can be: every text that is made on the way costs as much as a call of Redis.
local function enter_item(ctx, c, item)
  local seq = ctx.seq + 1
  ctx.seq, ctx.time = seq, ctx.now
  if c then
    c.last, c.changed = seq, true
  end
  ctx.entries[seq - ctx.before] = item
  return seq
end

-- The same for the bytes behind the length.
local function enter(ctx, c, bytes)
  return enter_item(ctx, c, struct.pack("<i8I2", ctx.now, #bytes) .. bytes)
end

-- The buyer in a claim id, from where its bytes 6 to 11 are: see `ClaimId::tag` in src/sale/ids.rs. The two lowest bits of
-- the last byte are random.
local function tag_at(bytes, at)
  local tag = struct.unpack(">I6", bytes, at)
  return tag - tag % 4
end

-- Entries that one table of the index holds. The index is made of many small ones, each of the entries of a while: a small
-- one stays in the processor's cache while it is filled, leaves as a whole once it is retired, and is nothing that Lua's
-- collector would stop at for long. A look goes through all of them: 12 where 100,000 entries wait.
local GENERATION = 8192

-- Remembers where an entry about a claim is, for whoever looks for it before the database has it.
local function remember(index, tag, seq)
  local here = index[index.to]
  if not here or here.count >= GENERATION then
    index.to = index.to + 1
    here = { count = 0, last = 0, tags = {} }
    index[index.to] = here
  end
  here.count = here.count + 1
  if seq > here.last then
    here.last = seq
  end
  local known = here.tags[tag]
  if not known then
    here.tags[tag] = seq
  elseif type(known) == "number" then
    here.tags[tag] = struct.pack("<I8I8", known, seq)
  else
    here.tags[tag] = known .. struct.pack("<I8", seq)
  end
end

local TAG_BYTES = 6
-- Claims of a bundle from which on it is left as it is: of a small one the table is as good.
local BUNDLE_LEFT = 16
-- Bundles that are left at the most: a look goes through their texts, 100 KB of them.
local BUNDLES_MAX = 64

local function remember_tags(index, tags, at, first, last)
  for seq = first, last do
    remember(index, struct.unpack(">I6", tags, at), seq)
    at = at + TAG_BYTES
  end
end

-- Puts the oldest bundle into the tables.
local function turn_bundle(index)
  local raw = index[-index.first]
  remember_tags(index, raw.tags, raw.at, raw.first, raw.last)
  index[-index.first] = nil
  index.first = index.first + 1
end

-- Remembers the entries of a bundle, `n` tags from `at` on, the first one's entry at `first`. For a while they are left as they
-- came, and gone through as texts: what the database has by then never costs more.
local function remember_many(index, tags, at, n, first)
  if n < BUNDLE_LEFT then
    return remember_tags(index, tags, at, first, first + n - 1)
  end
  index.last = index.last + 1
  index[-index.last] = { tags = tags, at = at, first = first, last = first + n - 1 }
  if index.last - index.first >= BUNDLES_MAX then
    turn_bundle(index)
  end
end

-- Adds to `seqs` those of a tag that are in bundles.
local function find_in_bundles(index, bytes, retired, seqs)
  for i = index.first, index.last do
    local raw = index[-i]
    local at = string.find(raw.tags, bytes, raw.at, true)
    while at do
      local seq = raw.first + (at - raw.at) / TAG_BYTES
      if seq % 1 == 0 and seq > retired then
        seqs[#seqs + 1] = seq
      end
      at = string.find(raw.tags, bytes, at + 1, true)
    end
  end
end

-- The seqs above `retired` of a tag, which is at the start of `bytes` as in a claim's id; ascending.
local function remembered(index, bytes, retired)
  local seqs, tag = {}, tag_at(bytes, 1)
  find_in_bundles(index, struct.pack(">I6", tag), retired, seqs)
  for i = index.from, index.to do
    local known = index[i].tags[tag]
    if type(known) == "number" then
      known = struct.pack("<I8", known)
    end
    for at = 1, known and #known or 0, 8 do
      local seq = struct.unpack("<I8", known, at)
      seqs[#seqs + 1] = seq > retired and seq or nil
    end
  end
  table.sort(seqs)
  return seqs
end

-- Forgets what nobody looks for any more: everything up to `upto` is retired.
local function forget(index, upto)
  while index.from <= index.to and index[index.from].last <= upto do
    index[index.from] = nil
    index.from = index.from + 1
  end
  while index.first <= index.last and index[-index.first].last <= upto do
    index[-index.first] = nil
    index.first = index.first + 1
  end
end

-- How many arguments a call of Redis takes: Lua's stack is bounded.
local ARGUMENTS = 1000

-- Writes what the call has gathered; `lane` and `value` are a field of meta and what it becomes, or nothing.
local function finish(ctx, lane, value)
  for from = 1, #ctx.entries, ARGUMENTS do
    redis.call("RPUSH", ctx.prefix .. "list", unpack(ctx.entries, from, math.min(from + ARGUMENTS - 1, #ctx.entries)))
  end
  local changed = {}
  for _, c in pairs(ctx.loaded) do
    if c.changed then
      local fields, n = {}, 0
      for i, field in ipairs(FIELDS) do
        local value = c[field]
        if value ~= c.read[i] then
          fields[n + 1], fields[n + 2] = field, text(value)
          n = n + 2
        end
      end
      redis.call("HSET", ctx.prefix .. "c:" .. c.name, unpack(fields))
      changed[#changed + 1], changed[#changed + 2] = text(c.last), c.name
    end
  end
  for from = 1, #changed, ARGUMENTS do
    redis.call("ZADD", ctx.prefix .. "v", unpack(changed, from, math.min(from + ARGUMENTS - 1, #changed)))
  end
  local fields = { lane, value }
  if ctx.seq > ctx.before then
    for _, each in ipairs({ "seq", text(ctx.seq), "time", text(ctx.time), "campaigns", text(ctx.campaigns) }) do
      fields[#fields + 1] = each
    end
  end
  if #fields > 0 then
    redis.call("HSET", ctx.key, unpack(fields))
  end
  opened[ctx.key].seq = text(ctx.seq)
end

-- What workers call, and what opens a partition.

-- KEYS: meta. ARGV: nonce, clock, worker incarnation, a position, entries at most, microseconds that the lease lasts. The
-- oldest entries after that position, to this worker alone until its lease ends or it gives it back; to a worker that has
-- the lease, again: it is prolonged where half of it is over, for to write is to sync, and an idle worker asks often. Where the partition is not open there are none, but the lease is had. Answers nonce, epoch, retired,
-- seq, 1 where it is open, then the entries; one word where another worker has the lease.
local function take(keys, args)
  local now = now_micros(args[2])
  local lease = redis.call("HMGET", keys[1], "worker", "until")
  if lease[1] and lease[1] ~= args[3] and tonumber(lease[2]) > now then
    return { args[1], "TAKEN" }
  end
  local length = tonumber(args[6])
  if lease[1] ~= args[3] or tonumber(lease[2]) - now < length / 2 then
    redis.call("HSET", keys[1], "worker", args[3], "until", text(now + length))
  end
  local meta = read_meta(keys[1], "")
  local answer = { args[1], meta[3] or "0", meta[5] or "0", meta[4] or "0", "0" }
  if closed(keys[1], meta) then
    return answer
  end
  answer[5] = "1"
  local skip, most = math.max(tonumber(args[4]) - tonumber(meta[5]), 0), tonumber(args[5])
  if most > 0 then
    for _, item in ipairs(redis.call("LRANGE", prefix_of(keys[1]) .. "list", skip, skip + most - 1)) do
      answer[#answer + 1] = item
    end
  end
  return answer
end

local WAITING = { "waiting", "waiting_money", "settling", "settling_money", "returning", "returning_money" }
local SUMS_HEAD, SUMS_BYTES = 8, 4 + 8 * (#WAITING + #STORED)

-- Takes sums off what waits, and sets what the database has.
local function retire_sums(prefix, sums)
  for at = SUMS_HEAD + 1, #sums, SUMS_BYTES do
    local name = text(struct.unpack("<I4", sums, at))
    local here, fields = prefix .. "c:" .. name, {}
    for i, found in ipairs(redis.call("HMGET", here, unpack(WAITING))) do
      local gone = struct.unpack("<i8", sums, at + 8 * i - 4)
      fields[2 * i - 1], fields[2 * i] = WAITING[i], text(assert(tonumber(found), "a campaign's sums") - gone)
    end
    redis.call("HSET", here, unpack(fields))
    fields = {}
    for i, field in ipairs(STORED) do
      fields[2 * i - 1] = field
      fields[2 * i] = text((struct.unpack("<i8", sums, at + 8 * (i + #WAITING) - 4)))
    end
    -- The database is never below nothing: so it is said that it was not asked.
    if fields[2] ~= "-1" then
      redis.call("HSET", prefix .. "z:" .. name, unpack(fields))
    end
  end
end

-- KEYS: meta. ARGV: nonce, clock, worker incarnation, epoch, seq up to which everything is in the database ("" for
-- none: only the lease is prolonged), microseconds that the lease lasts from now (0 gives it back), sums. These begin with the position after which they count; then of each campaign its number
-- (4 bytes), what leaves of the WAITING (8 each) and what the database has now, STORED (8 each). Answers nonce and a word:
-- OK, also where all of that was retired before; LOST where the lease is over or somebody else's, the epoch another one, an
-- opening under way, or the position not one that fits.
local function retire(keys, args)
  local now, prefix = now_micros(args[2]), prefix_of(keys[1])
  local meta = redis.call("HMGET", keys[1], "epoch", "retired", "worker", "until", "seq", "recovery")
  if meta[3] ~= args[3] or tonumber(meta[4]) <= now then
    return { args[1], "LOST" }
  end
  local upto, retired = tonumber(args[5]), tonumber(meta[2])
  if upto and upto ~= retired then
    if meta[1] ~= args[4] or meta[6] or upto > tonumber(meta[5]) or struct.unpack("<I8", args[7]) ~= retired
      or upto < retired then
      return { args[1], "LOST" }
    end
    redis.call("LTRIM", prefix .. "list", upto - retired, -1)
    redis.call("HSET", keys[1], "retired", text(upto))
    -- Where the partition is not open there is no index, and the next opening makes one of what is left.
    if opened[keys[1]] then
      forget(opened[keys[1]].index, upto)
    end
    retire_sums(prefix, args[7])
  elseif upto and meta[1] ~= args[4] then
    return { args[1], "LOST" }
  elseif upto and #args[7] > SUMS_HEAD and struct.unpack("<I8", args[7]) == retired and not meta[6] then
    -- Nothing is retired, but the database's sums have changed: a dead letter was dealt with.
    retire_sums(prefix, args[7])
  end
  redis.call("HSET", keys[1], "until", text(now + tonumber(args[6])))
  return { args[1], "OK" }
end

-- KEYS: meta. ARGV: nonce, milliseconds, buyers. Carts of which nothing waits leave after a while, unless they are
-- used again. Answers nonce and how many carts that is.
local function settle_carts(keys, args)
  local prefix, retired = prefix_of(keys[1]), tonumber(redis.call("HGET", keys[1], "retired"))
  local settled = 0
  for i = 3, #args do
    local here = prefix .. "t:" .. args[i]
    local version = tonumber(redis.call("HGET", here, ""))
    if version and retired and version <= retired then
      settled = settled + redis.call("PEXPIRE", here, args[2])
    end
  end
  return { args[1], settled }
end

-- KEYS: meta. ARGV: nonce, buyer. Has a cart be loaded from the database anew, because that has changed; not where
-- something of it waits. Whoever is loading it now has to do so again. Answers nonce and 1 where that was done.
local function forget_cart(keys, args)
  local prefix, retired = prefix_of(keys[1]), tonumber(redis.call("HGET", keys[1], "retired"))
  local here, loading = prefix .. "t:" .. args[2], prefix .. "l:" .. args[2]
  local version = tonumber(redis.call("HGET", here, ""))
  if version and not (retired and version <= retired) then
    return { args[1], 0 }
  end
  redis.call("UNLINK", here, loading)
  return { args[1], 1 }
end

redis.register_function({ function_name = "PREFIX_take", callback = take, flags = { "allow-oom" } })
redis.register_function({ function_name = "PREFIX_retire", callback = retire, flags = { "allow-oom" } })
redis.register_function({ function_name = "PREFIX_settle_carts", callback = settle_carts, flags = { "allow-oom" } })
redis.register_function({ function_name = "PREFIX_forget_cart", callback = forget_cart, flags = { "allow-oom" } })

-- What gates and workers call.

local KINDS = { c = claim, m = move_asked, a = admin, t = cart }

-- Runs `work` and writes what it gathered; a fault in it fences the partition, whatever it had written by then.
local function guarded(ctx, work)
  local ok, result = pcall(function()
    local answers = work()
    finish(ctx)
    return answers
  end)
  if ok then
    return result
  end
  redis.call("HSET", ctx.key, "fenced", tostring(result))
  return redis.error_reply("FENCED " .. tostring(result))
end

-- KEYS: meta. ARGV: nonce, epoch, clock ("" outside of tests), entries that may wait, commands (a letter, then its
-- bytes). Answers nonce, time, the last entry's seq, and an answer a command.
local function submit(keys, args)
  local ctx, why = begin(keys[1], args[2], args[3])
  if not ctx then
    return redis.error_reply("REFUSED " .. why)
  end
  return guarded(ctx, function()
    ctx.room = tonumber(args[4]) - redis.call("LLEN", ctx.prefix .. "list")
    local answers = { args[1], text(ctx.now), "" }
    for i = 5, #args do
      answers[i - 1] = KINDS[string.sub(args[i], 1, 1)](ctx, string.sub(args[i], 2))
    end
    answers[3] = text(ctx.seq)
    return answers
  end)
end

-- KEYS: meta. ARGV: nonce, epoch, clock, a time that is trusted, the grace after the due time, at most how many
-- claims, after how long a campaign is released, the campaigns to look at for it (from, to). Answers nonce, time, the
-- last entry's seq, how many claims expired, 1 where more are due, 1 where a campaign was released.
local function sweep(keys, args)
  local ctx, why = begin(keys[1], args[2], args[3])
  if not ctx then
    return redis.error_reply("REFUSED " .. why)
  end
  return guarded(ctx, function()
    local upto = tonumber(args[4])
    local done, more = expire(ctx, upto - tonumber(args[5]), tonumber(args[6]))
    local retired = tonumber(redis.call("HGET", keys[1], "retired"))
    local released = release(ctx, tonumber(args[8]), tonumber(args[9]), upto, tonumber(args[7]), retired)
    return { args[1], text(ctx.now), text(ctx.seq), done, more and 1 or 0, released and 1 or 0 }
  end)
end

-- KEYS: meta. ARGV: nonce, clock, worker incarnation, entries at most, microseconds that the lease lasts. The oldest
-- entries, to this worker alone until its lease ends or it gives it back; to a worker that has the lease, again.
-- Answers nonce, epoch, the seq before the first entry, then the entries; one word where another worker has the lease.
local function take(keys, args)
  local now = now_micros(args[2])
  local meta = redis.call("HMGET", keys[1], "epoch", "retired", "worker", "until")
  if not meta[1] then
    return redis.error_reply("REFUSED EMPTY")
  elseif meta[3] and meta[3] ~= args[3] and tonumber(meta[4]) > now then
    return { args[1], "TAKEN" }
  end
  redis.call("HSET", keys[1], "worker", args[3], "until", text(now + tonumber(args[5])))
  local answer = redis.call("LRANGE", string.sub(keys[1], 1, -5) .. "list", 0, tonumber(args[4]) - 1)
  table.insert(answer, 1, meta[2])
  table.insert(answer, 1, meta[1])
  table.insert(answer, 1, args[1])
  return answer
end

-- KEYS: meta. ARGV: nonce, clock, worker incarnation, epoch, seq up to which everything is in the database ("" for
-- none: only the lease is prolonged), microseconds that the lease lasts from now (0 gives it back). Answers nonce and
-- a word: OK; LOST where the lease is over or somebody else's, or the epoch another one.
local function retire(keys, args)
  local now = now_micros(args[2])
  local meta = redis.call("HMGET", keys[1], "epoch", "retired", "worker", "until", "seq")
  if meta[3] ~= args[3] or tonumber(meta[4]) <= now or meta[1] ~= args[4] then
    return { args[1], "LOST" }
  end
  local upto = tonumber(args[5])
  if upto then
    local retired = tonumber(meta[2])
    if upto < retired or upto > tonumber(meta[5]) then
      return { args[1], "LOST" }
    end
    redis.call("LTRIM", string.sub(keys[1], 1, -5) .. "list", upto - retired, -1)
    redis.call("HSET", keys[1], "retired", text(upto))
  end
  redis.call("HSET", keys[1], "until", text(now + tonumber(args[6])))
  return { args[1], "OK" }
end

-- KEYS: meta. ARGV: nonce, milliseconds, buyers. Carts of which nothing waits leave after a while, unless they are
-- used again. Answers nonce and how many carts that is.
local function settle_carts(keys, args)
  local prefix, retired = string.sub(keys[1], 1, -5), tonumber(redis.call("HGET", keys[1], "retired"))
  local settled = 0
  for i = 3, #args do
    local here = prefix .. "t:" .. args[i]
    local version = tonumber(redis.call("HGET", here, ""))
    if version and version <= retired then
      settled = settled + redis.call("PEXPIRE", here, args[2])
    end
  end
  return { args[1], settled }
end

-- KEYS: meta. ARGV: epoch. Makes an empty partition; answers its epoch, which is another one where it is there already.
local function found(keys, args)
  if redis.call("EXISTS", keys[1]) == 0 then
    redis.call("HSET", keys[1], "layout", LAYOUT, "epoch", args[1], "seq", "0", "time", "0", "campaigns", "0",
      "retired", "0")
  end
  return redis.call("HGET", keys[1], "epoch")
end

redis.register_function("PREFIX_found", found)
redis.register_function("PREFIX_submit", submit)
redis.register_function("PREFIX_sweep", sweep)

-- What workers call only ever makes room, so it must go on when there is none.
redis.register_function({ function_name = "PREFIX_take", callback = take, flags = { "allow-oom" } })
redis.register_function({ function_name = "PREFIX_retire", callback = retire, flags = { "allow-oom" } })
redis.register_function({ function_name = "PREFIX_settle_carts", callback = settle_carts, flags = { "allow-oom" } })

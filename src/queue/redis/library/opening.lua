-- What opens a partition after a start of Redis, and what tells how it stands.

local STATE = { "layout", "epoch", "seq", "retired", "campaigns", "fenced", "recovery", "recovery_base", "opened_by",
  "identity", "rebuilds", "worker", "until" }

-- How a partition stands, as names and values.
local function state(meta_key, nonce)
  local found, answer = redis.call("HMGET", meta_key, unpack(STATE)), { nonce }
  local function say(name, value)
    answer[#answer + 1], answer[#answer + 2] = name, value or ""
  end
  for i, name in ipairs(STATE) do
    say(name, found[i])
  end
  say("exists", found[1] and "1" or "0")
  say("opened", closed(meta_key, read_meta(meta_key, "")) and "0" or "1")
  say("entries", text(redis.call("LLEN", prefix_of(meta_key) .. "list")))
  say("time", text(now_micros("")))
  return answer
end

-- KEYS: meta. ARGV: nonce, gate ("" for none). How the partition stands, and the gate: one that is not known is noted as
-- new. Answers nonce, then names and values.
local function status(keys, args)
  local answer, gates = state(keys[1], args[1]), prefix_of(keys[1]) .. "gates"
  if args[2] ~= "" then
    redis.call("HSETNX", gates, args[2], "new")
    answer[#answer + 1], answer[#answer + 2] = "gate", redis.call("HGET", gates, args[2])
  end
  return answer
end

-- KEYS: meta. ARGV: nonce, token, base ("" where it is not known yet). An opening begins, or the one with this token says
-- from where gates are to offer. Nothing is admitted from now on. Answers as `status`, from before.
local function recover(keys, args)
  local answer, prefix = state(keys[1], args[1]), prefix_of(keys[1])
  opened[keys[1]] = nil
  if redis.call("HGET", keys[1], "recovery") ~= args[2] then
    redis.call("UNLINK", prefix .. "offers", prefix .. "offered")
  end
  redis.call("HSET", keys[1], "recovery", args[2], "recovery_base", args[3])
  return answer
end

-- KEYS: meta. ARGV: nonce, token, gate, the first one's seq, items of the list. What a gate has kept for an opening.
-- Answers nonce and a word: OK; LOST where that opening is not under way, or has no base yet; CONFLICT where another gate
-- has offered something else for one of the positions.
local function offer(keys, args)
  local meta = redis.call("HMGET", keys[1], "recovery", "recovery_base")
  if meta[1] ~= args[2] or meta[2] == "" then
    return { args[1], "LOST" }
  end
  local offers, first = prefix_of(keys[1]) .. "offers", tonumber(args[4])
  for i = 5, #args do
    local seq = text(first + i - 5)
    if redis.call("HSETNX", offers, seq, args[i]) == 0 and redis.call("HGET", offers, seq) ~= args[i] then
      return { args[1], "CONFLICT" }
    end
  end
  return { args[1], "OK" }
end

-- KEYS: meta. ARGV: nonce, token, gate, epoch and seq of the last entry that it has kept. The gate has offered all it has.
-- Answers nonce and OK, or LOST as `offer`.
local function offered(keys, args)
  local meta = redis.call("HMGET", keys[1], "recovery", "recovery_base")
  if meta[1] ~= args[2] or meta[2] == "" then
    return { args[1], "LOST" }
  end
  redis.call("HSET", prefix_of(keys[1]) .. "offered", args[3], args[2] .. " " .. args[4] .. " " .. args[5])
  return { args[1], "OK" }
end

-- The index on its way, by the name of the partition's meta: for which token, and how many entries of the list are in it.
local building = {}

-- KEYS: meta. ARGV: nonce, token, then commands: how many words follow, the command, its key behind the prefix, its other
-- words. Lays the partition out anew, for the opening with this token alone: of a worker that was stopped half-way and
-- goes on when another has opened, nothing is done. Answers nonce and OK, or LOST.
local function lay(keys, args)
  if redis.call("HGET", keys[1], "recovery") ~= args[2] then
    return { args[1], "LOST" }
  end
  local prefix, at = prefix_of(keys[1]), 3
  building[keys[1]] = nil
  while at <= #args do
    local last = at + tonumber(args[at])
    redis.call(args[at + 1], prefix .. args[at + 2], unpack(args, at + 3, last))
    at = last + 1
  end
  return { args[1], "OK" }
end

local CLAIMED, MOVED = 1, 4
local KIND_AT, TAG_AT = 11, 31 -- in an item of the list: time, length, kind; a claim's id is 16 bytes behind the length

local INDEXED_AT_ONCE = 20000

-- Goes on with the index of a list whose first entry is the one after `retired`. Gives it once it is whole.
local function build_index(meta_key, token, retired)
  local b = building[meta_key]
  if not b or b.token ~= token then
    b = { token = token, from = 0, index = { from = 1, to = 0, first = 1, last = 0 } }
    building[meta_key] = b
  end
  for _ = 1, INDEXED_AT_ONCE, ARGUMENTS do
    local items = redis.call("LRANGE", prefix_of(meta_key) .. "list", b.from, b.from + ARGUMENTS - 1)
    for i, item in ipairs(items) do
      local kind = string.byte(item, KIND_AT)
      if kind == CLAIMED or kind == MOVED then
        remember(b.index, tag_at(item, TAG_AT), retired + b.from + i)
      end
    end
    b.from = b.from + #items
    if #items < ARGUMENTS then
      building[meta_key] = nil
      return b.index
    end
  end
end

-- KEYS: meta. ARGV: nonce, token, the new epoch, the database's identity. Ends the opening with this token: from now on gates
-- are served under the new epoch. Answers nonce and OK; MORE where it must be called again, because a long list is gone
-- through in parts; LOST where that opening is not under way.
local function open(keys, args)
  local prefix = prefix_of(keys[1])
  local meta = read_meta(keys[1], "")
  if meta[7] ~= args[2] then
    return { args[1], "LOST" }
  end
  opened[keys[1]], meta[7] = { epoch = meta[3], seq = meta[4] }, false
  local why = closed(keys[1], meta)
  if why then
    opened[keys[1]] = nil
    return redis.error_reply("REFUSED " .. why)
  end
  opened[keys[1]] = nil
  local index = build_index(keys[1], args[2], tonumber(meta[5]))
  if not index then
    return { args[1], "MORE" }
  end
  redis.call("HDEL", keys[1], "recovery", "recovery_base")
  redis.call("UNLINK", prefix .. "offers", prefix .. "offered")
  redis.call("HSET", keys[1], "epoch", args[3], "identity", args[4], "opened_by", args[2])
  opened[keys[1]] = { epoch = args[3], seq = meta[4], index = index }
  return { args[1], "OK" }
end

-- A gate asks how things stand when nothing else works, too; and an opening must go on when there is no room.
redis.register_function({ function_name = "PREFIX_status", callback = status, flags = { "allow-oom" } })
redis.register_function({ function_name = "PREFIX_recover", callback = recover, flags = { "allow-oom" } })
redis.register_function({ function_name = "PREFIX_offer", callback = offer, flags = { "allow-oom" } })
redis.register_function({ function_name = "PREFIX_offered", callback = offered, flags = { "allow-oom" } })
redis.register_function({ function_name = "PREFIX_lay", callback = lay, flags = { "allow-oom" } })
redis.register_function({ function_name = "PREFIX_open", callback = open, flags = { "allow-oom" } })

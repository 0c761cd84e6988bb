-- What gates call.

-- By their letters, but for claims (c) and bundles of them (C), of which there are most.
local KINDS = { m = move_asked, a = admin, t = cart, f = look_claim, e = look_entries, u = look_cart, b = look_balance,
  p = look_campaign }

-- Runs `work` and writes what it gathered; a fault in it fences the partition, whatever it had written by then. `lane` is
-- the field of meta that says which call was a lane's last one, `said` what it begins with.
local function guarded(ctx, work, lane, said)
  local ok, result = pcall(function()
    local answers = work()
    finish(ctx, lane, lane and said .. " " .. text(ctx.before + 1) .. " " .. #ctx.entries)
    return answers
  end)
  if ok then
    return result
  end
  opened[ctx.key] = nil
  redis.call("HSET", ctx.key, "fenced", tostring(result))
  return redis.error_reply("FENCED " .. tostring(result))
end

-- KEYS: meta. ARGV: nonce, epoch, lane, session, clock ("" outside of tests), entries that may wait, commands (a letter,
-- then its bytes), bundles of claims first. Answers nonce, time, retired, the seq of the first entry that the call makes (the
-- next one where it makes none), the entries that the other commands make, as they are in the list, one behind the other,
-- and an answer a bundle and command. Of the bundles' entries the gate has the bytes.
local function submit(keys, args)
  local lane, session = args[3], args[4]
  local ctx, why = begin(keys[1], args[2], args[5], lane)
  if ctx and string.sub(ctx.lane, 1, #session + 1) ~= session .. " " then
    ctx, why = nil, "LANE"
  end
  if not ctx then
    return redis.error_reply("REFUSED " .. why)
  end
  return guarded(ctx, function()
    ctx.room = tonumber(args[6]) - (ctx.seq - ctx.retired)
    local answers = { args[1], text(ctx.now), text(ctx.retired), text(ctx.seq + 1), "" }
    local at, bundled = 7, 0
    while at <= #args do
      local command, answer, claims = args[at], nil, 0
      local letter = string.sub(command, 1, 1)
      if letter == "C" then
        assert(#ctx.entries == bundled, "a bundle behind other commands")
        answer, claims = bundle(ctx, args, at)
        bundled = #ctx.entries
      elseif KINDS[letter] then
        answer = KINDS[letter](ctx, string.sub(command, 2))
      else
        answer = claim(ctx, command)
      end
      answers[#answers + 1], at = answer, at + 1 + 3 * claims
    end
    answers[5] = table.concat(ctx.entries, "", bundled + 1)
    return answers
  end, "L:" .. lane, session .. " " .. args[1])
end

-- KEYS: meta. ARGV: nonce, epoch, lane, session, clock. From now on the lane is this session's alone: a call of an earlier
-- one that is still on its way will be refused. Answers nonce, and of the lane's last call its nonce ("" for none), the
-- seq of its first entry and how many entries it made. A lane's name is its gate's, a point and a number; one that has left, or was
-- dismissed, is refused.
local function hello(keys, args)
  local ctx, why = begin(keys[1], args[2], args[5], args[3])
  if ctx and redis.call("HGET", ctx.prefix .. "gates", string.match(args[3], "^[^.]*")) == "left" then
    ctx, why = nil, "LEFT"
  end
  if not ctx then
    return redis.error_reply("REFUSED " .. why)
  end
  local last, first, count = string.match(ctx.lane, "^%S+ (%S+) (%d+) (%d+)$")
  local said = (last or "-") .. " " .. (first or "0") .. " " .. (count or "0")
  redis.call("HSET", keys[1], "L:" .. args[3], args[4] .. " " .. said)
  return { args[1], last ~= "-" and last or "", first or "0", count or "0" }
end

-- KEYS: meta. ARGV: nonce, epoch, clock, a time that is trusted, the grace after the due time, at most how many
-- claims, after how long a campaign is released, the campaigns to look at for it (from, to). Answers nonce, time, the
-- last entry's seq, how many claims expired, 1 where more are due, 1 where a campaign was released, and the entries as
-- they are in the list.
local function sweep(keys, args)
  local ctx, why = begin(keys[1], args[2], args[3], "")
  if not ctx then
    return redis.error_reply("REFUSED " .. why)
  end
  return guarded(ctx, function()
    local upto = tonumber(args[4])
    local done, more = expire(ctx, upto - tonumber(args[5]), tonumber(args[6]))
    local released = release(ctx, tonumber(args[8]), tonumber(args[9]), upto, tonumber(args[7]), ctx.retired)
    return { args[1], text(ctx.now), text(ctx.seq), done, more and 1 or 0, released and 1 or 0,
      table.concat(ctx.entries) }
  end)
end

-- KEYS: meta. ARGV: nonce, a position, at most how many campaigns. The campaigns that have changed since that position, in
-- the order in which they changed. Answers nonce, time, epoch, the position to ask from next, retired, how many entries
-- wait, then of each its number and FIELDS (8 bytes each), its name and its definition.
local function changes(keys, args)
  local ctx, why = begin(keys[1], redis.call("HGET", keys[1], "epoch"), "", "")
  if not ctx then
    return redis.error_reply("REFUSED " .. why)
  end
  local limit = tonumber(args[3])
  local found = redis.call("ZRANGEBYSCORE", ctx.prefix .. "v", "(" .. args[2], "+inf", "LIMIT", 0, limit)
  local answer = { args[1], text(ctx.now), redis.call("HGET", keys[1], "epoch"), text(ctx.seq), text(ctx.retired),
    text(ctx.seq - ctx.retired) }
  for _, no in ipairs(found) do
    local c, packed = campaign(ctx, tonumber(no)), { struct.pack("<i8", tonumber(no)) }
    for i, field in ipairs(FIELDS) do
      packed[i + 1] = struct.pack("<i8", c[field])
    end
    answer[#answer + 1] = table.concat(packed)
    for _, words in ipairs(redis.call("HMGET", ctx.prefix .. "c:" .. no, "id", "spec")) do
      answer[#answer + 1] = words
    end
    if #found == limit then
      answer[4] = text(c.last)
    end
  end
  return answer
end

redis.register_function("PREFIX_submit", submit)
redis.register_function("PREFIX_hello", hello)
redis.register_function("PREFIX_sweep", sweep)
redis.register_function({ function_name = "PREFIX_changes", callback = changes, flags = { "no-writes", "allow-oom" } })

-- Many claims of a campaign as one command: those that ask for one unit, without a key, of a campaign in which a buyer may hold
-- one claim of a fixed worth for as long as it lasts. Most claims of a sale are such, and most of them find a unit. The gate has
-- made all bytes that depend on nothing here, so that a claim costs few texts and a part of three calls of Redis instead of
-- all of one.

local BUNDLE_HEAD = "<I4I4i8" -- campaign, claims, price (-1: none); then of each claim its tag (6 bytes)
local TAGS_AT = 18

-- The claims that a bundle holds one by one, where it can't be accepted as a whole: letters, and details of the refusals in
-- the order of their claims.
local function one_by_one(ctx, c, args, at, n, held)
  local letters, answer, stamp = {}, { "" }, struct.pack("<i8", ctx.now)
  for i = 1, n do
    local user, record, body = args[at + 2 * i - 1], args[at + 2 * i], args[at + 2 * n + i]
    local refused = held[i] and "H" .. string.sub(held[i], 1, 16) or turned_down(ctx, c, 1)
    if not refused then
      assert(redis.call("HSET", c.h, user, record) == 1, "a buyer who is in a bundle twice")
      count(c, 1, c.price)
      remember(ctx.index, tag_at(record, 7), enter_item(ctx, c, stamp .. body))
    elseif #refused > 1 then
      answer[#answer + 1] = string.sub(refused, 2)
    end
    letters[i] = refused and string.sub(refused, 1, 1) or "A"
  end
  answer[1] = table.concat(letters)
  return answer
end

-- The bundle whose head is the argument `at`, and behind it buyer and record of each claim, then their entries. No buyer is in
-- it twice. Answers "A" where all were accepted, "?" where there is no such campaign, "@" where the gate took the
-- campaign for another kind, else as `one_by_one`.
local function bundle(ctx, args, at)
  local head = args[at]
  local no, n, price = struct.unpack(BUNDLE_HEAD, head, 2)
  local c = campaign(ctx, no)
  if not c then
    return "?", n
  elseif c.limit ~= 1 or c.price ~= price or c.ttl >= 0 or c.kind == RED_PACKET or c.kind == CHECK_IN then
    return "@", n
  end
  local users = {}
  for i = 1, n do
    users[i] = args[at + 2 * i - 1]
  end
  local held = redis.call("HMGET", c.h, unpack(users))
  local is_whole = #ctx.entries + n <= ctx.room and n <= c.free and not refusal(ctx, c)
  for i = 1, n do
    is_whole = is_whole and not held[i]
  end
  if not is_whole then
    return one_by_one(ctx, c, args, at, n, held), n
  end
  assert(redis.call("HSET", c.h, unpack(args, at + 1, at + 2 * n)) == n, "a buyer who is in a bundle twice")
  local entries, before, bodies, stamp = ctx.entries, #ctx.entries, at + 2 * n, struct.pack("<i8", ctx.now)
  for i = 1, n do
    entries[before + i] = stamp .. args[bodies + i]
  end
  remember_many(ctx.index, head, TAGS_AT, n, ctx.seq + 1)
  ctx.seq, ctx.time = ctx.seq + n, ctx.now
  c.last, c.changed = ctx.seq, true
  count(c, n, price >= 0 and price * n or -1)
  return "A", n
end

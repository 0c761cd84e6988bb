-- Claims that arrive while a call to Redis is under way wait for it and go with the next one, in one command: what a gate gains
-- that is taught to batch. Not the usual way.
--
-- There is no thread that sends: the first who finds no call under way makes one, and when it is back hands what has come
-- meanwhile to the first of those who wait. So nobody is kept from its own answer by others', and a claim that comes alone waits
-- for nobody.

local semaphore = require("ngx.semaphore")
local new_table = require("table.new")
local resp = require("resp")
local bulk, call = resp.bulk, resp.call
local sub = string.sub

local MAX = 128 -- claims a call, so that Redis is not held up for long
local PATIENCE_S = 5 -- more than any call may take

local lanes = {} -- by campaign: whether a call is under way, and who waits, from `first` to `last`
local spare, spares = {}, 0 -- semaphores that nobody waits on

local function lane_of(keys)
   local lane = lanes[keys]
   if not lane then
      lane = { busy = false, waiting = {}, first = 1, last = 0, head = "\r\n$5\r\nFCALL\r\n$5\r\nclaim\r\n$1\r\n3\r\n" .. keys }
      lanes[keys] = lane
   end
   return lane
end

-- One call for those who have waited longest, whose first is the caller.
local function lead(redis, lane)
   local from, to, waiting = lane.first, lane.last, lane.waiting
   if to - from >= MAX then
      to = from + MAX - 1
   end
   local size = to - from + 1
   local batch, command = new_table(size, 0), new_table(size + 2, 0)
   command[1], command[2] = "*" .. (6 + 2 * size), lane.head
   for i = 1, size do
      local one = waiting[from + i - 1]
      waiting[from + i - 1] = nil
      batch[i], command[i + 2] = one, one.text
   end
   lane.first = to + 1
   local outcomes, err = call(redis, command)
   local following = waiting[lane.first]
   if following then
      following.leads = true
      following.semaphore:post()
   else
      lane.busy = false
   end
   for i = 1, size do
      local one = batch[i]
      one.outcome, one.err = outcomes and sub(outcomes, i, i), err
      if one.semaphore and not one.leads then
         one.semaphore:post()
      end
   end
end

-- The outcome, a digit; or nil and what went wrong.
return function(redis, keys, user, record)
   local lane = lane_of(keys)
   local one = { text = bulk(user) .. bulk(record) }
   lane.last = lane.last + 1
   lane.waiting[lane.last] = one
   if not lane.busy then
      lane.busy = true
      lead(redis, lane)
      return one.outcome, one.err
   end
   local mine = spare[spares] or semaphore.new()
   spare[spares] = nil
   spares = spares > 0 and spares - 1 or 0
   one.semaphore = mine
   local ok, err = mine:wait(PATIENCE_S)
   if not ok then
      return nil, err -- and the semaphore is not used again: a post may still come
   end
   if one.leads then
      lead(redis, lane)
   end
   spares = spares + 1
   spare[spares] = mine
   return one.outcome, one.err
end

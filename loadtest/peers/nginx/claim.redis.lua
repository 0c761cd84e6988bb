#!lua name=gate
-- What the gate asks Redis: one a buyer, one unit less, and the record onto the list that a consumer would pop from. Redis runs a
-- call alone, so nothing comes between its steps, and writes its effects to the append-only file as one transaction.
--
-- FCALL claim 3 BUYERS STOCK LIST BUYER RECORD [BUYER RECORD …]
--
-- The reply is a digit a claim, in one line. Three commands for a claim that is accepted, which is the least: each of them both
-- looks and writes. What a refusal has to undo is undone here.

local ACCEPTED, DUPLICATE, SOLD_OUT = '1', '2', '3'

local function claim(buyers, stock, list, buyer, record)
   local call = redis.call
   if call('SADD', buyers, buyer) == 0 then
      return DUPLICATE
   end
   if call('DECR', stock) < 0 then
      call('INCR', stock)
      call('SREM', buyers, buyer)
      return SOLD_OUT
   end
   call('RPUSH', list, record)
   return ACCEPTED
end

redis.register_function('claim', function(keys, args)
   if #args == 2 then
      return redis.status_reply(claim(keys[1], keys[2], keys[3], args[1], args[2]))
   end
   local outcomes = {}
   for i = 1, #args, 2 do
      outcomes[#outcomes + 1] = claim(keys[1], keys[2], keys[3], args[i], args[i + 1])
   end
   return redis.status_reply(table.concat(outcomes))
end)

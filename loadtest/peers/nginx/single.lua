-- The usual way: each claim is a call to Redis of its own.

local resp = require("resp")
local bulk, call = resp.bulk, resp.call

local heads = {} -- the command's first bytes, which are a campaign's

-- The outcome, a digit; or nil and what went wrong.
return function(redis, keys, user, record)
   local head = heads[keys]
   if not head then
      head = "*8\r\n$5\r\nFCALL\r\n$5\r\nclaim\r\n$1\r\n3\r\n" .. keys
      heads[keys] = head
   end
   return call(redis, { head, bulk(user), bulk(record) })
end

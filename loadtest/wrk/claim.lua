-- One claim a request, each by a buyer that was never seen before: the same script and the same bytes for every subject.
--
-- Usage: wrk … URL -- CAMPAIGN TAG    (TAG keeps the buyers of a warm-up apart from those of the measurement)
--
-- wrk, not the server, is easily the slower of the two, so a request must cost it nothing. The request is one string, and
-- the buyer's number is counted up in place, in the string's own memory: no allocation, no garbage, as cheap as a constant.
-- (Built anew each time it took 5 % of wrk's core.) LuaJIT takes strings to be immutable, which is sound here because this
-- one is only ever handed to wrk, which copies it: it is never compared, nor used as a key. Each wrk thread has its own.
-- No response() hook for the same reason: wrk would build a table of headers for every answer.

local ffi = require("ffi")

local threads = 0

function setup(thread)
   thread:set("thread_number", threads)
   threads = threads + 1
end

local text   -- the whole request
local digits -- its bytes
local last   -- where the number's last digit is

function init(args)
   local campaign = args[1] or error("usage: wrk … URL -- CAMPAIGN TAG")
   local tag = args[2] or "m"
   local body_end = '","quantity":1}'
   local body = '{"user":"' .. tag .. "-" .. thread_number .. "-000000000" .. body_end
   text = "POST /v1/campaigns/" .. campaign .. "/claims HTTP/1.1\r\n"
      .. "Host: " .. wrk.host .. ":" .. wrk.port .. "\r\n"
      .. "Content-Type: application/json\r\n"
      .. "Content-Length: " .. #body .. "\r\n\r\n"
      .. body
   last = #text - #body_end - 1
   digits = ffi.cast("uint8_t *", ffi.cast("const char *", text))
end

function request()
   local i = last
   local digit = digits[i] + 1
   while digit == 58 do -- past '9': carry
      digits[i] = 48
      i = i - 1
      digit = digits[i] + 1
   end
   digits[i] = digit
   return text
end

dofile((debug.getinfo(1, "S").source:match("^@(.*/)") or "") .. "result.lua")

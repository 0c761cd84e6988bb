-- A hundred claims a request, each by a buyer that was never seen before; see claim.lua for how and why.
--
-- Usage: wrk … URL -- CAMPAIGN TAG    (TAG keeps the buyers of a warm-up apart from those of the measurement)
--
-- A buyer's name ends in its place in the batch, two digits that never change, so that only the batch's number before it has to
-- be counted up, at the hundred places where it stands. All numbers stay alike, so the carry is worked out once.

local ffi = require("ffi")

local SIZE = 100
local DIGITS = 7 -- ten million batches
local threads = 0

function setup(thread)
   thread:set("thread_number", threads)
   threads = threads + 1
end

local text   -- the whole request
local bytes  -- its bytes
local places -- of each buyer's batch number, where its last digit is

function init(args)
   local campaign = args[1] or error("usage: wrk … URL -- CAMPAIGN TAG")
   local tag = args[2] or "m"
   local claims = {}
   for n = 0, SIZE - 1 do
      local user = tag .. "-" .. thread_number .. "-" .. string.rep("0", DIGITS) .. string.format("%02d", n)
      claims[#claims + 1] = '{"user":"' .. user .. '","quantity":1}'
   end
   local body = '{"claims":[' .. table.concat(claims, ",") .. "]}"
   text = "POST /v1/campaigns/" .. campaign .. "/claims:batch HTTP/1.1\r\n"
      .. "Host: " .. wrk.host .. ":" .. wrk.port .. "\r\n"
      .. "Content-Type: application/json\r\n"
      .. "Content-Length: " .. #body .. "\r\n\r\n"
      .. body
   local member = #claims[1] + 1
   local first = #text - #body + #'{"claims":[' + #'{"user":"' + #tag + #tostring(thread_number) + 2 + DIGITS - 1
   places = ffi.new("int32_t[?]", SIZE)
   for n = 0, SIZE - 1 do
      places[n] = first + n * member
   end
   bytes = ffi.cast("uint8_t *", ffi.cast("const char *", text))
end

function request()
   local nines = 0
   while bytes[places[0] - nines] == 57 do
      nines = nines + 1
   end
   for n = 0, SIZE - 1 do
      local last = places[n]
      for back = 0, nines - 1 do
         bytes[last - back] = 48
      end
      bytes[last - nines] = bytes[last - nines] + 1
   end
   return text
end

dofile((debug.getinfo(1, "S").source:match("^@(.*/)") or "") .. "result.lua")

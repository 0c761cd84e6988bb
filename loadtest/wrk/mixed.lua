-- A sale's mixed crowd: of ten requests seven are claims by buyers that were never seen before, two are adds to such buyers' carts,
-- one reads a cart; see claim.lua for how and why.
--
-- Usage: wrk … URL -- CAMPAIGN TAG    (TAG keeps the buyers of a warm-up apart from those of the measurement)

local ffi = require("ffi")

local threads = 0

function setup(thread)
   thread:set("thread_number", threads)
   threads = threads + 1
end

local kinds -- each with its text, bytes and the place of the buyer's last digit
local turn = 0

-- `before` ends in the buyer's number.
local function kind(before, after)
   local text = before .. after
   return { text = text, bytes = ffi.cast("uint8_t *", ffi.cast("const char *", text)), last = #before - 1 }
end

function init(args)
   local campaign = args[1] or error("usage: wrk … URL -- CAMPAIGN TAG")
   local buyer = (args[2] or "m") .. "-" .. thread_number .. "-000000000"
   local host = "Host: " .. wrk.host .. ":" .. wrk.port .. "\r\n"
   local json = host .. "Content-Type: application/json\r\n"
   local claim_end = '","quantity":1}'
   local claim = '{"user":"' .. buyer
   local add = '{"sku":"sku-1","op":"add","quantity":1}'
   local cart = "/v1/carts/" .. buyer
   kinds = {
      claim = kind("POST /v1/campaigns/" .. campaign .. "/claims HTTP/1.1\r\n" .. json
         .. "Content-Length: " .. #claim + #claim_end .. "\r\n\r\n" .. claim, claim_end),
      cart = kind("POST " .. cart, "/items HTTP/1.1\r\n" .. json .. "Content-Length: " .. #add .. "\r\n\r\n" .. add),
      read = kind("GET " .. cart, " HTTP/1.1\r\n" .. host .. "\r\n"),
   }
end

function request()
   turn = (turn + 1) % 10
   local one = turn < 7 and kinds.claim or turn < 9 and kinds.cart or kinds.read
   local i = one.last
   local digit = one.bytes[i] + 1
   while digit == 58 do -- past '9': carry
      one.bytes[i] = 48
      i = i - 1
      digit = one.bytes[i] + 1
   end
   one.bytes[i] = digit
   return one.text
end

dofile((debug.getinfo(1, "S").source:match("^@(.*/)") or "") .. "result.lua")

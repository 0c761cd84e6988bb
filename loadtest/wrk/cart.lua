-- One add to a cart a request, each by a buyer that was never seen before; see claim.lua for how and why.
--
-- Usage: wrk … URL -- CAMPAIGN TAG    (CAMPAIGN is not used; TAG keeps the buyers of a warm-up apart)

local ffi = require("ffi")

local threads = 0

function setup(thread)
   thread:set("thread_number", threads)
   threads = threads + 1
end

local text   -- the whole request
local digits -- its bytes
local last   -- where the buyer's last digit is

function init(args)
   local tag = args[2] or "m"
   local body = '{"sku":"sku-1","op":"add","quantity":1}'
   local path = "POST /v1/carts/" .. tag .. "-" .. thread_number .. "-000000000"
   text = path .. "/items HTTP/1.1\r\n"
      .. "Host: " .. wrk.host .. ":" .. wrk.port .. "\r\n"
      .. "Content-Type: application/json\r\n"
      .. "Content-Length: " .. #body .. "\r\n\r\n"
      .. body
   last = #path - 1
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

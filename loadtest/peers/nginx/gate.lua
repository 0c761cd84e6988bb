-- The usual gate of a timed sale: parse, ask Redis, answer. The record on the list is what a consumer would bring into the
-- database later.

local cjson = require("cjson.safe")
local bulk = require("resp").bulk

local decode = cjson.decode
local read_body, get_body_data = ngx.req.read_body, ngx.req.get_body_data
local now, print_out = ngx.now, ngx.print
local format, find = string.format, string.find
local type = type

local ACCEPTED, DUPLICATE, SOLD_OUT = "1", "2", "3"
local MAX_USER = 64

local redis -- where it listens: "unix:/…"
local ask -- how: `single` or `batched`
local instance -- makes ids of this worker its own
local made = 0
local keys = {} -- by campaign: the three keys, as arguments of the command

local _M = {}

function _M.init(path, way)
   redis = "unix:" .. path
   ask = require(way)
end

function _M.init_worker()
   instance = format("%x-%x-", ngx.now() * 1000, ngx.worker.pid())
end

local function keys_of(campaign)
   local found = keys[campaign]
   if not found then
      local tag = "{" .. campaign .. "}:"
      found = bulk(tag .. "buyers") .. bulk(tag .. "stock") .. bulk(tag .. "claims")
      keys[campaign] = found
   end
   return found
end

local function answer(status, body)
   ngx.status = status
   -- Known, so that the answer is one piece and not chunks.
   ngx.header["Content-Length"] = #body
   print_out(body)
end

local function problem(status, name)
   answer(status, '{"type":"' .. name .. '","status":' .. status .. "}")
end

function _M.claim(campaign)
   read_body()
   local body = get_body_data()
   local claim = body and decode(body)
   local user = type(claim) == "table" and claim.user
   -- Characters that JSON would have to escape are not what ids are made of.
   if type(user) ~= "string" or #user == 0 or #user > MAX_USER or find(user, "[^%w._:-]") then
      return problem(400, "bad-request")
   end
   if claim.quantity ~= nil and claim.quantity ~= 1 then
      return problem(400, "bad-request")
   end
   made = made + 1
   local record = '{"claim_id":"' .. instance .. made .. '","campaign":"' .. campaign .. '","user":"' .. user
      .. '","quantity":1,"accepted_at":' .. format("%.3f", now()) .. "}"
   local outcome, err = ask(redis, keys_of(campaign), user, record)
   if outcome == ACCEPTED then
      return answer(202, record)
   elseif outcome == DUPLICATE then
      return problem(409, "already-claimed")
   elseif outcome == SOLD_OUT then
      return problem(409, "sold-out")
   end
   ngx.log(ngx.ERR, "redis: ", err)
   return problem(503, "unavailable")
end

return _M

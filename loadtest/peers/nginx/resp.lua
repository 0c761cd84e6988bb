-- A client for Redis that does no more than this gate needs: a command goes out in one send, its reply is one line.
--
-- Connections come from the worker's own pool and go back to it, so that nothing is opened while the sale runs. One whose
-- command failed is closed instead: what comes next on it would be somebody else's reply. Timeouts and the pool's size are in
-- nginx.conf.

local tcp = ngx.socket.tcp
local byte, sub = string.byte, string.sub

local ERROR, STATUS = byte("-"), byte("+")

local _M = {}

-- The bytes of an argument.
function _M.bulk(text)
   return "$" .. #text .. "\r\n" .. text .. "\r\n"
end

-- The status that `command` (a table of strings, sent as they are) is answered with; or nil and what went wrong.
function _M.call(path, command)
   local sock = tcp()
   local ok, err = sock:connect(path)
   if not ok then
      return nil, "connect: " .. err
   end
   ok, err = sock:send(command)
   if not ok then
      sock:close()
      return nil, "send: " .. err
   end
   local line
   line, err = sock:receive()
   if not line then
      sock:close()
      return nil, "receive: " .. err
   end
   local kind = byte(line)
   if kind ~= STATUS and kind ~= ERROR then
      sock:close()
      return nil, "a reply of another kind: " .. line
   end
   sock:setkeepalive()
   if kind == STATUS then
      return sub(line, 2)
   end
   return nil, sub(line, 2)
end

return _M

-- What scripts see. Runs once per engine, with the functions of the engine (`host`) as its argument,
-- and returns the environment of scripts and the function that runs one.
--
-- Scripts share one Lua state, so nothing that one script can reach may be changed by it: every table
-- given to scripts is an empty front whose content lies behind it, out of reach.

local host = ...

local error, type, tostring, tonumber, select, next = error, type, tostring, tonumber, select, next
local raw_get, raw_set, set_meta, get_meta = rawget, rawset, setmetatable, getmetatable
local raw_pcall, raw_xpcall, set_env = pcall, xpcall, setfenv
local raw_load, raw_byte, concat = loadstring, string.byte, table.concat

local READ_ONLY = 'Attempt to modify a readonly table'
local locked, fronts = {}, {}

local function refuse()
  error(READ_ONLY, 2)
end

local function lock(content)
  local front = set_meta({}, { __index = content, __newindex = refuse, __metatable = false })
  locked[front] = true
  fronts[#fronts + 1] = front
  return front
end

local function copy(from, names)
  local to = {}
  for name in names:gmatch('%S+') do
    to[name] = from[name]
  end
  return to
end

-- Globals.

local G = copy(_G, [[
  assert collectgarbage error gcinfo getmetatable ipairs next pairs rawequal rawget select tonumber
  tostring type unpack _VERSION
]])
set_meta(G, {
  __index = function(_, name)
    error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
  end,
})
local env = lock(G)
G._G = env

function G.rawset(front, key, value)
  if locked[front] then
    error(READ_ONLY, 0)
  end
  return raw_set(front, key, value)
end

function G.setmetatable(front, meta)
  if locked[front] then
    error(READ_ONLY, 0)
  end
  return set_meta(front, meta)
end

-- A script that ran out of time must not catch its own end. Errors of commands are tables for a handler
-- of xpcall, and their text for pcall, which is what scripts written for older versions expect.
-- Functions of the engine throw errors of its own kind, which are turned into either here.
local function plain(problem)
  local text, coded = host.text(problem)
  if text and coded then
    return { err = text }
  end
  return text or problem
end

local function caught(ok, ...)
  if ok then
    return true, ...
  end
  if host.expired() then
    error('timeout', 0)
  end
  local problem = plain((...))
  if type(problem) == 'table' then
    local text = raw_get(problem, 'err')
    if type(text) == 'string' then
      return false, text
    end
  end
  return false, problem
end

function G.pcall(...)
  return caught(raw_pcall(...))
end

local function passed(ok, ...)
  if not ok and host.expired() then
    error('timeout', 0)
  end
  return ok, ...
end

function G.xpcall(run, handle)
  return passed(raw_xpcall(run, function(problem)
    return handle(plain(problem))
  end))
end

-- Compiled code is refused: the machine trusts it, and crafted code breaks out of it.
local function compile(text, name)
  if raw_byte(text, 1) == 27 then
    return nil, 'compiled code is not accepted'
  end
  local chunk, problem = raw_load(text, name)
  if chunk then
    set_env(chunk, env)
  end
  return chunk, problem
end

function G.loadstring(text, name)
  if type(text) ~= 'string' then
    error("bad argument #1 to 'loadstring' (string expected, got " .. type(text) .. ')', 2)
  end
  return compile(text, name or text)
end

function G.load(read, name)
  local parts = {}
  while true do
    local part = read()
    if part == nil or part == '' then
      return compile(concat(parts), name or '=(load)')
    end
    if type(part) ~= 'string' then
      return nil, 'reader function must return a string'
    end
    parts[#parts + 1] = part
  end
end

-- Libraries.

local text = copy(string, [[
  byte char find format gfind gmatch gsub len lower match rep reverse sub upper
]])
G.string = lock(text)
local text_meta = get_meta('')
text_meta.__index = text
text_meta.__metatable = false
G.table = lock(copy(table, 'concat foreach foreachi getn insert maxn remove setn sort'))
local coroutines = copy(coroutine, 'create running status wrap yield')
local raw_resume = coroutine.resume
local function resumed(ok, ...)
  if ok then
    return true, ...
  end
  if host.expired() then
    error('timeout', 0)
  end
  return false, plain((...))
end
function coroutines.resume(...)
  return resumed(raw_resume(...))
end
G.coroutine = lock(coroutines)

local math_content = copy(math, [[
  abs acos asin atan atan2 ceil cos cosh deg exp floor fmod frexp huge ldexp log log10 max min mod modf
  pi pow rad sin sinh sqrt tan tanh
]])
local floor = math.floor
function math_content.random(low, high)
  local chance = host.chance()
  if low == nil then
    return chance
  end
  if high == nil then
    low, high = 1, low
  end
  low, high = floor(low), floor(high)
  if low > high then
    error('bad argument to \'random\' (interval is empty)', 2)
  end
  return floor(chance * (high - low + 1)) + low
end
math_content.randomseed = host.randomseed
G.math = lock(math_content)

G.cjson = lock({
  encode = host.json_encode,
  decode = host.json_decode,
  null = host.null,
  encode_keep_buffer = function() end,
  encode_max_depth = function() end,
  decode_max_depth = function() end,
  encode_invalid_numbers = function() end,
  decode_invalid_numbers = function() end,
  encode_number_precision = function() end,
  encode_sparse_array = function() end,
  _NAME = 'cjson',
  _VERSION = '2.1.0',
})

G.cmsgpack = lock({
  pack = host.msgpack_encode,
  unpack = host.msgpack_decode,
  _NAME = 'cmsgpack',
  _VERSION = 'lua-cmsgpack 0.4.0',
})

local bit = {}
for name in ('tobit bnot band bor bxor lshift rshift arshift rol ror bswap tohex'):gmatch('%S+') do
  bit[name] = host['bit_' .. name]
end
G.bit = lock(bit)

-- redis.*

local function problem(text)
  return { err = text }
end

local redis = {
  LOG_DEBUG = 0,
  LOG_VERBOSE = 1,
  LOG_NOTICE = 2,
  LOG_WARNING = 3,
  REPL_NONE = 0,
  REPL_SLAVE = 1,
  REPL_REPLICA = 1,
  REPL_AOF = 2,
  REPL_ALL = 3,
  REDIS_VERSION = host.version,
  REDIS_VERSION_NUM = host.version_number,
}

-- Makes a function of the engine out of one that returns its result, or nil and an error. A function in
-- Lua would hide the line of a caller that ends with `return redis.log()`.
local front = host.front

redis.sha1hex = front(function(...)
  if select('#', ...) ~= 1 then
    return nil, 'ERR wrong number of arguments'
  end
  local of = ...
  return host.sha1hex(tostring(of))
end)

local function one_string(...)
  local value = ...
  if select('#', ...) ~= 1 or type(value) ~= 'string' then
    return nil
  end
  return value
end

function redis.error_reply(...)
  local text = one_string(...)
  if not text then
    return problem('ERR wrong number or type of arguments')
  end
  text = text:gsub('^%-', '', 1):gsub('[\r\n]+$', '')
  if not text:find(' ', 1, true) then
    text = 'ERR ' .. text
  end
  return problem(text)
end

function redis.status_reply(...)
  local text = one_string(...)
  if not text then
    return problem('ERR wrong number or type of arguments')
  end
  return { ok = text }
end

redis.log = front(function(...)
  if select('#', ...) < 2 then
    return nil, 'ERR redis.log() requires two arguments or more.'
  end
  local level = ...
  if type(level) ~= 'number' then
    return nil, 'ERR First argument must be a number (log level).'
  end
  if level < 0 or level > 3 then
    return nil, 'ERR Invalid debug level.'
  end
  local words = {}
  for at = 2, select('#', ...) do
    words[at - 1] = tostring((select(at, ...)))
  end
  host.log(level, concat(words, ' '))
end)

redis.setresp = front(function(...)
  if select('#', ...) ~= 1 then
    return nil, 'ERR redis.setresp() requires one argument.'
  end
  local version = ...
  if version ~= 2 and version ~= 3 then
    return nil, 'ERR RESP version must be 2 or 3.'
  end
  host.setresp(version)
end)

-- Effects are replicated, never scripts; these remain for scripts that ask for it.
function redis.replicate_commands()
  return true
end

redis.set_repl = front(function(...)
  if select('#', ...) ~= 1 then
    return nil, 'ERR redis.set_repl() requires one argument.'
  end
  local flags = tonumber((...))
  if not flags or flags < 0 or flags > 3 then
    return nil, 'ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.'
  end
end)

function redis.breakpoint()
  return false
end

function redis.debug() end

G.redis = lock(redis)

local function run(chunk, call, protected, keys, argv)
  redis.call, redis.pcall = call, protected
  raw_set(G, 'KEYS', keys)
  raw_set(G, 'ARGV', argv)
  local ok, value = raw_xpcall(chunk, host.describe)
  redis.call, redis.pcall = nil, nil
  -- table.insert and its like write past the guard of a front; that ends with the run.
  for at = 1, #fronts do
    local key = next(fronts[at])
    while key ~= nil do
      raw_set(fronts[at], key, nil)
      key = next(fronts[at])
    end
  end
  raw_set(G, 'KEYS', nil)
  raw_set(G, 'ARGV', nil)
  return ok, value
end

return env, run

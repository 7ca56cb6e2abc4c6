-- What scripts and functions see. Runs once per engine, with the functions of the engine (`host`) as its
-- argument, and returns the environments of scripts and libraries and the functions that run them.
--
-- All of them share one Lua state, so nothing that one can reach may be changed by it: every table given
-- to them is an empty front whose content lies behind it, out of reach.

local host = ...

local error, type, tostring, tonumber, select, next = error, type, tostring, tonumber, select, next
local raw_get, raw_set, set_meta, get_meta = rawget, rawset, setmetatable, getmetatable
local raw_pcall, raw_xpcall, set_env = pcall, xpcall, setfenv
local raw_load, concat = loadstring, table.concat

-- Makes a function of the engine out of one that returns an error and where it is shown, or nothing twice
-- and its results. A function in Lua would hide the line of a caller that ends with `return redis.log()`.
local front = host.front

local READ_ONLY = 'Attempt to modify a readonly table'
-- What lies behind each front, and all fronts.
local contents, fronts = {}, {}

local function refuse()
  error(READ_ONLY, 2)
end

local function lock(content, shown)
  local meta = { __index = content, __newindex = refuse, __metatable = shown or false }
  local guard = set_meta({}, meta)
  contents[guard] = content
  fronts[#fronts + 1] = guard
  return guard, meta
end

-- What `getmetatable` shows of the metatables of globals and strings.
local meta_shown = lock({})

local function copy(from, names)
  local to = {}
  for name in names:gmatch('%S+') do
    to[name] = from[name]
  end
  return to
end

local missing = {
  __index = function(_, name)
    error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
  end,
}

-- What a function of Lua's libraries says of a wrong argument; true: with the line of the caller.
local function bad_argument(at, name, wanted, ...)
  local got = select('#', ...) == 0 and 'no value' or type((...))
  local text = wanted
  if wanted == 'table' then
    text = 'table expected, got ' .. got
  end
  return 'bad argument #' .. at .. " to '" .. name .. "' (" .. text .. ')', true
end

-- Globals that do not depend on the environment.

local common = copy(_G, 'assert collectgarbage error gcinfo ipairs rawequal select tonumber tostring type unpack _VERSION')

common.rawset = front(function(...)
  local count = select('#', ...)
  local target, key, value = ...
  if type(target) ~= 'table' then
    return bad_argument(1, 'rawset', 'table', ...)
  end
  if count < 3 then
    return bad_argument(count + 1, 'rawset', 'value expected')
  end
  if contents[target] then
    return 'ERR ' .. READ_ONLY
  end
  if key == nil then
    return 'table index is nil'
  end
  if key ~= key then
    return 'table index is NaN'
  end
  return nil, nil, raw_set(target, key, value)
end)

common.setmetatable = front(function(...)
  local target, meta = ...
  if type(target) ~= 'table' then
    return bad_argument(1, 'setmetatable', 'table', ...)
  end
  if select('#', ...) < 2 or meta ~= nil and type(meta) ~= 'table' then
    return bad_argument(2, 'setmetatable', 'nil or table expected')
  end
  if contents[target] then
    return 'ERR ' .. READ_ONLY
  end
  local present = get_meta(target)
  if present ~= nil and (type(present) ~= 'table' or raw_get(present, '__metatable') ~= nil) then
    return 'cannot change a protected metatable', true
  end
  return nil, nil, set_meta(target, meta)
end)

function common.getmetatable(...)
  if select('#', ...) == 0 then
    error("bad argument #1 to 'getmetatable' (value expected)", 2)
  end
  local meta = get_meta((...))
  if meta == false and contents[(...)] then
    return nil
  end
  return meta
end

local function check_table(name, ...)
  if type((...)) ~= 'table' then
    error((bad_argument(1, name, 'table', ...)), 3)
  end
end

function common.rawget(...)
  check_table('rawget', ...)
  local from, key = ...
  return raw_get(contents[from] or from, key)
end

local function next_of(...)
  check_table('next', ...)
  local from, key = ...
  return next(contents[from] or from, key)
end
common.next = next_of

function common.pairs(...)
  check_table('pairs', ...)
  local from = ...
  if contents[from] then
    return next_of, from, nil
  end
  return next, from, nil
end

-- A run that has to end must not be kept alive by catching its end. Errors of commands are tables for a
-- handler of xpcall, and their text for pcall, which is what scripts written for older versions expect.
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
  if host.ended() then
    error('ended', 0)
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

function common.pcall(...)
  if select('#', ...) == 0 then
    return false
  end
  return caught(raw_pcall(...))
end

local function passed(ok, ...)
  if not ok and host.ended() then
    error('ended', 0)
  end
  return ok, ...
end

function common.xpcall(...)
  if select('#', ...) < 2 then
    error("bad argument #2 to 'xpcall' (value expected)", 2)
  end
  local run, handle = ...
  return passed(raw_xpcall(run, function(problem)
    return handle(plain(problem))
  end))
end

-- Lua's libraries.

local text = copy(string, [[
  byte char find format gfind gmatch gsub len lower match rep reverse sub upper
]])
common.string = lock(text)
local text_meta = get_meta('')
text_meta.__index = text
text_meta.__metatable = meta_shown
common.table = lock(copy(table, 'concat foreach foreachi getn insert maxn remove setn sort'))
local coroutines = copy(coroutine, 'create running status wrap yield')
local raw_resume = coroutine.resume
local function resumed(ok, ...)
  if ok then
    return true, ...
  end
  if host.ended() then
    error('ended', 0)
  end
  return false, plain((...))
end
function coroutines.resume(...)
  if type((...)) ~= 'thread' then
    error("bad argument #1 to 'resume' (coroutine expected)", 2)
  end
  return resumed(raw_resume(...))
end
common.coroutine = lock(coroutines)

local math_content = copy(math, [[
  abs acos asin atan atan2 ceil cos cosh deg exp floor fmod frexp huge ldexp log log10 max min mod modf
  pi pow rad sin sinh sqrt tan tanh
]])
math_content.random = host.random
math_content.randomseed = host.randomseed
common.math = lock(math_content)
common.os = lock({ clock = host.clock })

common.cjson = lock(host.cjson)
common.cmsgpack = lock(host.cmsgpack)

local bit = {}
for name in ('tobit bnot band bor bxor lshift rshift arshift rol ror bswap tohex'):gmatch('%S+') do
  bit[name] = host['bit_' .. name]
end
common.bit = lock(bit)

common.struct = lock({ pack = host.struct_pack, unpack = host.struct_unpack, size = host.struct_size })

-- redis.*

local function problem(text)
  return { err = text }
end

local constants = {
  LOG_DEBUG = 0,
  LOG_VERBOSE = 1,
  LOG_NOTICE = 2,
  LOG_WARNING = 3,
  REDIS_VERSION = host.version,
  REDIS_VERSION_NUM = host.version_number,
}

-- What functions find in `redis` when they run; scripts find more.
local redis = {
  REPL_NONE = 0,
  REPL_AOF = 1,
  REPL_SLAVE = 2,
  REPL_REPLICA = 2,
  REPL_ALL = 3,
}
-- What libraries find in it while they are loaded.
local loading = set_meta({}, missing)

constants.log = front(function(...)
  if select('#', ...) < 2 then
    return 'ERR redis.log() requires two arguments or more.'
  end
  local level = ...
  if type(level) ~= 'number' then
    return 'ERR First argument must be a number (log level).'
  end
  if level < 0 or level > 3 then
    return 'ERR Invalid debug level.'
  end
  local words = {}
  for at = 2, select('#', ...) do
    local word = select(at, ...)
    if type(word) == 'string' or type(word) == 'number' then
      words[#words + 1] = tostring(word)
    end
  end
  host.log(level, concat(words, ' '))
end)

for name, value in next, constants do
  redis[name], loading[name] = value, value
end

redis.sha1hex = front(function(...)
  if select('#', ...) ~= 1 then
    return 'ERR wrong number of arguments'
  end
  local of = ...
  if type(of) ~= 'string' and type(of) ~= 'number' then
    of = ''
  end
  return nil, nil, host.sha1hex(tostring(of))
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

redis.setresp = front(function(...)
  if select('#', ...) ~= 1 then
    return 'ERR redis.setresp() requires one argument.'
  end
  local version = tonumber((...))
  if version ~= 2 and version ~= 3 then
    return 'ERR RESP version must be 2 or 3.'
  end
  host.setresp(version)
end)

-- Effects are replicated, never scripts: what a script says of it is checked and has no effect.
redis.set_repl = front(function(...)
  if select('#', ...) ~= 1 then
    return 'ERR redis.set_repl() requires two arguments.'
  end
  local flags = tonumber((...)) or 0
  if flags < 0 or flags > 3 then
    return 'ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.'
  end
end)

-- May the one for whom the script runs call this?
redis.acl_check_cmd = front(function(...)
  local count = select('#', ...)
  if count == 0 then
    return 'ERR Please specify at least one argument for this redis lib call'
  end
  for at = 1, count do
    local kind = type((select(at, ...)))
    if kind ~= 'string' and kind ~= 'number' then
      return 'ERR Lua redis lib command arguments must be strings or integers'
    end
  end
  if not host.is_command(tostring((...))) then
    return 'ERR Invalid command passed to redis.acl_check_cmd()'
  end
  return nil, nil, host.may_call(...)
end)

local NO_TABLE = 'calling redis.register_function with a single argument is only applicable to Lua table '
  .. '(representing named arguments).'

local function as_string(value)
  if type(value) == 'string' or type(value) == 'number' then
    return tostring(value)
  end
end

-- The name, the callback, the description and the flags; or nil and what is wrong.
local function read_named(named)
  local name, callback, description, flags
  for key, value in next, contents[named] or named do
    if type(key) ~= 'string' and type(key) ~= 'number' then
      return nil, 'named argument key given to redis.register_function is not a string'
    elseif key == 'function_name' then
      name = as_string(value)
      if not name then
        return nil, 'function_name argument given to redis.register_function must be a string'
      end
    elseif key == 'description' then
      description = as_string(value)
      if not description then
        return nil, 'description argument given to redis.register_function must be a string'
      end
    elseif key == 'callback' then
      callback = value
      if type(callback) ~= 'function' then
        return nil, 'callback argument given to redis.register_function must be a function'
      end
    elseif key == 'flags' then
      flags = value
      if type(flags) ~= 'table' then
        return nil, 'flags argument to redis.register_function must be a table representing function flags'
      end
    else
      return nil, 'unknown argument given to redis.register_function'
    end
  end
  if not name then
    return nil, 'redis.register_function must get a function name argument'
  end
  if not callback then
    return nil, 'redis.register_function must get a callback argument'
  end
  return name, callback, description, flags
end

local function read_function(...)
  local count = select('#', ...)
  local first, second = ...
  if count < 1 or count > 2 then
    return nil, 'wrong number of arguments to redis.register_function'
  end
  if count == 1 then
    if type(first) ~= 'table' then
      return nil, NO_TABLE
    end
    return read_named(first)
  end
  local name = as_string(first)
  if not name then
    return nil, 'first argument to redis.register_function must be a string'
  end
  if type(second) ~= 'function' then
    return nil, 'second argument to redis.register_function must be a function'
  end
  return name, second
end

loading.register_function = front(function(...)
  local name, callback, description, flags = read_function(...)
  local wrong = callback
  if name then
    wrong = host.register(name, callback, description, flags or {})
  end
  if wrong then
    return 'ERR ' .. wrong
  end
end)

-- Environments.

-- Globals with this `redis`; the front of them and what lies behind.
local function environment(api)
  local G = set_meta({}, missing)
  for name, value in next, common do
    raw_set(G, name, value)
  end
  local env, meta = lock(G, meta_shown)
  raw_set(G, '_G', env)
  raw_set(G, 'redis', lock(api))

  -- Compiled code is refused: the machine trusts it, and crafted code breaks out of it.
  local function compile(text, name)
    if text:byte() == 27 then
      return nil, 'compiled code is not accepted'
    end
    local chunk, wrong = raw_load(text, name)
    if chunk then
      set_env(chunk, env)
    end
    return chunk, wrong
  end

  raw_set(G, 'loadstring', front(function(...)
    local text, name = ...
    if type(text) == 'number' then
      text = tostring(text)
    end
    if type(text) ~= 'string' then
      local got = select('#', ...) == 0 and 'no value' or type(text)
      return "bad argument #1 to 'loadstring' (string expected, got " .. got .. ')', true
    end
    return nil, nil, compile(text, name or text)
  end))

  raw_set(G, 'load', front(function(...)
    local read, name = ...
    if type(read) ~= 'function' then
      local got = select('#', ...) == 0 and 'no value' or type(read)
      return "bad argument #1 to 'load' (function expected, got " .. got .. ')', true
    end
    local parts = {}
    while true do
      local part = read()
      if part == nil or part == '' then
        return nil, nil, compile(concat(parts), name or '=(load)')
      end
      if type(part) ~= 'string' then
        return nil, nil, nil, 'reader function must return a string'
      end
      parts[#parts + 1] = part
    end
  end))
  return env, G, meta
end

local script_redis = {}
for name, value in next, redis do
  script_redis[name] = value
end
function script_redis.replicate_commands()
  return true
end
function script_redis.breakpoint()
  return false
end
function script_redis.debug() end

redis.call, redis.pcall = host.relay(0), host.relay(1)

local script_env, script_globals = environment(script_redis)
local library_env, library_globals, library_meta = environment(redis)
local load_globals = set_meta({ redis = lock(loading) }, missing)

-- table.insert and its like write past the guard of a front; that ends with the run.
local function clean()
  for at = 1, #fronts do
    local key = next(fronts[at])
    while key ~= nil do
      raw_set(fronts[at], key, nil)
      key = next(fronts[at])
    end
  end
end

local function run_script(chunk, call, protected, keys, argv)
  script_redis.call, script_redis.pcall = call, protected
  raw_set(script_globals, 'KEYS', keys)
  raw_set(script_globals, 'ARGV', argv)
  local ok, value = raw_xpcall(chunk, host.describe)
  script_redis.call, script_redis.pcall = nil, nil
  raw_set(script_globals, 'KEYS', nil)
  raw_set(script_globals, 'ARGV', nil)
  clean()
  return ok, value
end

local function run_function(callback, keys, argv)
  local ok, value = raw_xpcall(function()
    return callback(keys, argv)
  end, host.describe)
  clean()
  return ok, value
end

-- While the code of a library runs it sees nothing but what registers its functions.
local function load_library(chunk)
  library_meta.__index = load_globals
  local ok, value = raw_xpcall(chunk, host.describe)
  library_meta.__index = library_globals
  return ok, value
end

return script_env, library_env, run_script, run_function, load_library

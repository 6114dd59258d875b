-- What stands between a script and Lua's own functions. Runs once an interpreter, before any script, with the
-- functions that `environment.rs` gives it; what it returns is used there.
--
-- `caught` turns what the host raised into what a script may see, and raises again what no script may catch: the order
-- to stop. `real` has the tables behind those that scripts may only read.

local host, real, caught = ...
local pcall, xpcall, next, pairs, rawget, loadstring = pcall, xpcall, next, pairs, rawget, loadstring
local type, concat, error, unpack, tonumber = type, table.concat, error, unpack, tonumber

local shown = {}

local function settle(ok, ...)
  if ok then
    return true, ...
  end
  return false, caught(..., true)
end

function shown.pcall(...)
  return settle(pcall(...))
end

local function settle_handled(stopped, ok, ...)
  if stopped.error then
    caught(stopped.error)
  end
  return ok, ...
end

function shown.xpcall(f, handler)
  local stopped = {}
  local function handled(e)
    if host.is_stop(e) then
      stopped.error = e
      return e
    end
    return handler(caught(e))
  end
  return settle_handled(stopped, xpcall(f, handled))
end

-- A coroutine hands an order to stop to whoever resumed it, so it cannot be caught there either.
local resume = coroutine.resume

local function settle_resumed(ok, ...)
  if ok then
    return true, ...
  end
  return false, caught((...))
end

function shown.resume(...)
  return settle_resumed(resume(...))
end

function shown.next(t, key)
  return next(real[t] or t, key)
end

function shown.pairs(t)
  if real[t] then
    return shown.next, t, nil
  end
  return pairs(t)
end

function shown.rawget(t, key)
  return rawget(real[t] or t, key)
end

-- Lua 5.1 adds the two ends up in an int. Ends that are far apart overflow it, and unpack then writes where nothing is its
-- own: what cannot fit its stack beside the arguments is refused before.
local RESULTS_MAX = 8000
local INT_MAX = 2147483647

function shown.unpack(t, i, j)
  if i == nil and j == nil then
    if type(t) == "table" and #t >= RESULTS_MAX then
      error("too many results to unpack", 2)
    end
    return unpack(t)
  end
  local from = i == nil and 1 or tonumber(i)
  local to = j == nil and type(t) == "table" and #t or tonumber(j)
  if from and to then
    if not (from >= -INT_MAX - 1 and to <= INT_MAX and to - from < RESULTS_MAX - 3) then
      if from > to then
        return
      end
      error("too many results to unpack", 2)
    end
    return unpack(t, from, to)
  end
  return unpack(t, i, j)
end

-- Scripts are text. Bytecode that nobody compiled here could do anything.
function shown.loadstring(text, name)
  if type(text) == "string" and text:sub(1, 1) == "\27" then
    return nil, "bytecode is not allowed"
  end
  return loadstring(text, name)
end

function shown.load(pieces, name)
  local text = {}
  for piece in pieces do
    if piece == "" then
      break
    end
    text[#text + 1] = piece
  end
  return shown.loadstring(concat(text), name or "=(load)")
end

local handler = host.handler
local function run(f, ...)
  local args = { n = select("#", ...), ... }
  return xpcall(function()
    return f(unpack(args, 1, args.n))
  end, handler)
end

return shown, run

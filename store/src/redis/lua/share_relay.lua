-- share_relay: what a worker wants of a relay, and what it may use of it. See `embedded/model/relay.rs`.
-- KEYS     1 relay, 2 relays by name
-- ARGV     1 worker, 2 sequence, 3 rate per hour, 4 burst, 5 connections in all (0: no limit), 6 held, 7 wanted,
--          8 sends, 9 ttl ms, 10 relay
-- returns  connections, sends, ms until the other sends fit
-- refuses  nothing; a sequence that is not above the last changes nothing

local COST = 3600000
local call = redis.call
local t = call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local function int(n) return string.format('%.0f', n) end
local function floor_div(a, b) return (a - a % b) / b end
local function corrupt(what) error({ err = 'CORRUPT ' .. what }) end

local worker, sequence = ARGV[1], tonumber(ARGV[2])
local own = { rate = tonumber(ARGV[3]), burst = tonumber(ARGV[4]), total = tonumber(ARGV[5]), held = tonumber(ARGV[6]),
  wanted = tonumber(ARGV[7]), sequence = sequence, expires_at = now + tonumber(ARGV[9]) }
local sends = tonumber(ARGV[8])

-- The stakes of workers that were seen lately, by worker; and the meter.
local stakes, drop, at, debt, joined = {}, {}, 0, 0, 0
local fields = call('HGETALL', KEYS[1])
call('ZCARD', KEYS[2])
for n = 1, #fields, 2 do
  local name, text = fields[n], fields[n + 1]
  if name == 'pace' then
    at, debt = string.match(text, '^(%d+)|(%d+)$')
    if not at then corrupt('the pace of a relay') end
    at, debt = tonumber(at), tonumber(debt)
  elseif name == 'joined' then
    joined = tonumber(string.match(text, '^%d+$'))
    if not joined then corrupt('the counter of a relay') end
  else
    local p = { string.match(text, '^(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)$') }
    if #p ~= 8 then corrupt('a share of a relay') end
    for i = 1, 8 do p[i] = tonumber(p[i]) end
    if p[4] > now then
      stakes[name] = { held = p[1], wanted = p[2], sequence = p[3], expires_at = p[4], joined = p[5], rate = p[6],
        burst = p[7], total = p[8] }
    else
      drop[#drop + 1] = name
    end
  end
end

local field = 'w|' .. worker
local before = stakes[field]
if before and sequence <= before.sequence then return { 0, 0, 0 } end
own.joined = before and before.joined or joined + 1
joined = math.max(joined, own.joined)
stakes[field] = own

local function lower(a, b)
  if a == 0 then return b end
  if b == 0 then return a end
  return math.min(a, b)
end
local rate, burst, total, others, wants = 0, 0, 0, 0, {}
for name, s in pairs(stakes) do
  rate, burst, total = lower(rate, s.rate), lower(burst, s.burst), lower(total, s.total)
  wants[#wants + 1] = s.wanted
  if name ~= field then others = others + s.held end
end

local function fair()
  table.sort(wants)
  local left = total
  for n, want in ipairs(wants) do
    local rest = #wants - n + 1
    local level = floor_div(left, rest)
    if want <= level then
      left = left - want
    else
      if own.wanted <= level then return own.wanted end
      local above = 0
      for _, s in pairs(stakes) do
        if s.wanted > level and (s.held > own.held or (s.held == own.held and s.joined < own.joined)) then
          above = above + 1
        end
      end
      return level + (above < left % rest and 1 or 0)
    end
  end
  return own.wanted
end

local connections = own.wanted
if total > 0 then connections = math.min(fair(), math.max(total - others, 0)) end
own.held = math.max(own.held, connections)

-- As in pace.lua: a clock that went back pays nothing, and what is owed is paid from now on.
local wait = 0
if rate > 0 then
  at = math.min(at, now)
  local owed = math.max(debt - (now - at) * rate, 0)
  local allowed = burst * COST
  local refused = sends
  sends = math.min(sends, floor_div(math.max(allowed - owed, 0), COST))
  refused = refused - sends
  if sends > 0 then
    at, debt = now, owed + sends * COST
    owed = debt
  end
  if refused > 0 then
    wait = floor_div(owed + math.min(refused, burst) * COST - allowed + rate - 1, rate)
  end
end

if #drop > 0 then call('HDEL', KEYS[1], unpack(drop, 1, math.min(#drop, 1000))) end
call('HSET', KEYS[1], field, table.concat({ int(own.held), int(own.wanted), int(own.sequence), int(own.expires_at),
  int(own.joined), int(own.rate), int(own.burst), int(own.total) }, '|'), 'joined', int(joined),
  'pace', int(at) .. '|' .. int(debt))
call('ZADD', KEYS[2], '0', ARGV[10])
return { connections, sends, wait }

-- fire: decides about occurrences of a campaign's schedule, and begins the run of one of them as an effect.
-- KEYS     1 campaign, 2 schedules, 3 outbox, 4 version
-- ARGV     1 name, 2 request, 3 stamp, 4 decided until ms, 5 due at ms or '', 6 look at ms or '', 7 zones, 8 subject,
--          9 word of the effect or '', 10 its run, 11 its nominal time ms, then for each kind that was passed over:
--          reason (a field), count, nominal time of the last ms, why
-- returns  done, stale, early, busy; then, when a run is on its way to its shard, version and word of the effect
-- refuses  what was calculated from another stamp, or is still to come; another run while one is on its way

local names = { 'schedule', 'stamp', 'decided', 'paused', 'by', 'fired' }
for at = 12, #ARGV, 4 do names[#names + 1] = ARGV[at] end
local f = redis.call('HMGET', KEYS[1], unpack(names))
if not f[1] then return { 'stale' } end

local function whole(text, what)
  local number = tonumber(text)
  if not number or number ~= math.floor(number) or math.abs(number) > 9007199254740991 then
    error({ err = 'CORRUPT ' .. what .. ' of a campaign' })
  end
  return number
end

redis.call('ZCARD', KEYS[2])
local version = next_version(KEYS[3], KEYS[4])
local waiting = redis.call('HGET', KEYS[3], ARGV[8])
local function answer(word)
  if not waiting then return { word } end
  local of, effect = string.match(waiting, '^(%d+) (.+)$')
  if not of then error({ err = 'CORRUPT an entry of the outbox' }) end
  return { word, of, effect }
end

local decided, until_ms, now = whole(f[3], 'what is decided'), whole(ARGV[4], 'decided until'), now_ms()
if f[5] == ARGV[2] then return answer('done') end
local begins = ARGV[9] ~= ''
if begins then until_ms = math.max(until_ms, whole(ARGV[11], 'nominal time')) end
if f[2] ~= ARGV[3] or f[4] == '1' or (begins and whole(ARGV[11], 'nominal time') <= decided) then return { 'stale' } end
if until_ms > math.max(now, decided) then return { 'early' } end
if waiting then return answer('busy') end

local text = function(number) return string.format('%.0f', number) end
local set = { 'by', ARGV[2], 'stamp', version, 'decided', text(math.max(decided, until_ms)), 'due', ARGV[5],
  'zones', ARGV[7] }
local function add(field, value)
  set[#set + 1] = field
  set[#set + 1] = value
end
for n = 7, #names do
  local at = 12 + (n - 7) * 4
  add(names[n], text(whole(f[n] or '0', names[n]) + whole(ARGV[at + 1], 'count')))
  add('skipped', names[n] .. ' ' .. text(whole(ARGV[at + 1], 'count')) .. ' ' .. ARGV[at + 2])
  add('skipped_why', ARGV[at + 3])
end
if begins then
  add('fired', text(whole(f[6] or '0', 'fired') + 1))
  add('fired_run', ARGV[10])
  add('fired_nominal', ARGV[11])
  add('fired_at', text(now))
end
local look = ARGV[6] ~= '' and text(whole(ARGV[6], 'look at'))
if begins then send_effect(KEYS[3], KEYS[4], version, ARGV[8], ARGV[9]) else redis.call('SET', KEYS[4], version) end
redis.call('HSET', KEYS[1], unpack(set))
if look then redis.call('ZADD', KEYS[2], look, ARGV[1]) else redis.call('ZREM', KEYS[2], ARGV[1]) end
if begins then return { 'done', version, ARGV[9] } end
return { 'done' }

-- suppress: the set of those who are not sent to changes, and every shard is to be told its new number.
-- KEYS     1 outbox, 2 version, 3 the set, then of each change the bucket of its key
-- ARGV     1 check, 2 number of changes, then six each: field in the bucket, what (add, remove, unname), scope (of remove also ''
--          for all), digit of the reason, since when (ms; '' now), subject
-- returns  status (done, other_key), then number of the set, a word, how many changes changed something
-- refuses  a set that was made with another key

local check, number = ARGV[1], tonumber(ARGV[2])
local f = redis.call('HMGET', KEYS[3], 'check', 'count')
if f[1] and f[1] ~= check then return { 'other_key' } end
if not number or not tonumber(f[2] or '0') then error({ err = 'CORRUPT the set of those who are not sent to' }) end
local now = string.format('%.0f', now_ms())

-- Each is read once: `scope=digit,since` with semicolons between, then what was given for the list.
local known = {}
local function subject_of(bucket, field)
  local name = bucket .. '|' .. field
  if known[name] then return known[name] end
  local s = { bucket = bucket, field = field, holds = {}, subject = '' }
  local text = redis.call('HGET', bucket, field)
  if text then
    local holds, subject = string.match(text, '^([^|]*)|(.*)$')
    if not holds then error({ err = 'CORRUPT a suppression in ' .. bucket }) end
    s.was_there, s.subject = true, subject
    for scope, hold in string.gmatch(holds, '([^=;]+)=(%d+)') do s.holds[scope] = hold end
  end
  known[name] = s
  return s
end

local CHANGES = {
  add = function(s, scope, digit, at, subject)
    local is_named, hold = s.subject == '' and subject ~= '', s.holds[scope]
    if is_named then s.subject = subject end
    -- Of two the graver stays: the one with the lower digit.
    local is_graver = not hold or digit < string.sub(hold, 1, 1)
    if is_graver then s.holds[scope] = digit .. (at == '' and now or at) end
    return is_named or is_graver
  end,
  remove = function(s, scope)
    if scope == '' then
      local changed = next(s.holds) ~= nil
      s.holds = {}
      return changed
    end
    local changed = s.holds[scope] ~= nil
    s.holds[scope] = nil
    return changed
  end,
  unname = function(s)
    local changed = s.subject ~= ''
    s.subject = ''
    return changed
  end,
}

local changed = 0
for n = 1, number do
  local at = n * 6 - 3
  local act = CHANGES[ARGV[at + 1]]
  if not act then error({ err = 'CORRUPT the change of a suppression' }) end
  local s = subject_of(KEYS[3 + n], ARGV[at])
  if act(s, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]) then
    changed = changed + 1
    s.changed = true
  end
end

local version = next_version(KEYS[1], KEYS[2])
local count = 0
for _, s in pairs(known) do
  local holds = {}
  for scope, hold in pairs(s.holds) do holds[#holds + 1] = scope .. '=' .. hold end
  table.sort(holds)
  if #holds == 0 then
    if s.was_there then
      redis.call('HDEL', s.bucket, s.field)
      count = count - 1
    end
  elseif s.changed then
    redis.call('HSET', s.bucket, s.field, table.concat(holds, ';') .. '|' .. s.subject)
    if not s.was_there then count = count + 1 end
  end
end
send_effect(KEYS[1], KEYS[2], version, 'S|set', '1')
redis.call('HSET', KEYS[3], 'check', check, 'number', version, 'count', string.format('%.0f', tonumber(f[2] or '0') + count))
return { 'done', version, '1', changed }

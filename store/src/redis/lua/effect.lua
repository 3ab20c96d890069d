-- Common to scripts that begin an effect on every shard. It is written down in the outbox by the same script that
-- decides on it, so that whoever dies before it is everywhere leaves it to the next one. Of one subject only the newest
-- is kept. Versions grow for ever, and by the clock, so that a store that was set back gives no old one again.

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function next_version(outbox, version_key)
  redis.call('HLEN', outbox)
  local last = redis.call('GET', version_key) or '0'
  if not string.match(last, '^%d+$') or #last > 15 then error({ err = 'CORRUPT the version of effects' }) end
  return string.format('%.0f', math.max(tonumber(last) + 1, now_ms()))
end

local function send_effect(outbox, version_key, version, subject, word)
  redis.call('SET', version_key, version)
  redis.call('HSET', outbox, subject, version .. ' ' .. word)
end

-- Of the hash of a campaign: its schedule, and where that stands.
local SCHEDULE_FIELDS = { 'schedule', 'stamp', 'decided', 'active', 'due', 'zones', 'by', 'fired', 'fired_run',
  'fired_nominal', 'fired_at', 'missed', 'overlap', 'cannot_run', 'skipped', 'skipped_why' }

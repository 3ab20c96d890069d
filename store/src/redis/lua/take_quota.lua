-- take_quota: the last part of moving quotas. What this shard may use of limits from now on.
-- KEYS     the shard's
-- ARGV     1 when the shard was looked at, by its own clock, then of each: L|lane or S|site, version, until, rate, burst,
--          at once, saved
-- returns  how many were taken
-- refuses  a version that is not newer; an end that has passed; all of them when the clock went back since the look

local asked_at = num(ARGV[1], 'asked at')
local seen = call('HGET', K.pace, 'Q')
quota_of('Q', seen)
if now < asked_at or not seen or now < tonumber(seen) then return 0 end

-- What was saved up stays, as far as the new burst goes; what is new of the burst comes empty, since who had it may have
-- used it. Nothing is saved of a quota that has ended.
local fields, taken = {}, 0
for n = 2, #ARGV, 7 do
  local node = ARGV[n]
  local version, ends, rate, burst, cap =
    num(ARGV[n + 1], 'version'), num(ARGV[n + 2], 'until'), num(ARGV[n + 3], 'rate'), num(ARGV[n + 4], 'burst'),
    num(ARGV[n + 5], 'at once')
  local old, is_live = quota_of(node, seen, call('HGET', K.pace, 'Q|' .. node))
  if version > old.version and ends > now then
    local at, debt = debt_at(call('HGET', K.pace, node), node)
    local saved = old.burst * COST - math.max(debt - math.max(math.min(now, old.ends) - at, 0) * old.rate, 0)
    if not is_live then saved = math.min(saved, 0) end
    saved = saved + num(ARGV[n + 6], 'saved') * COST
    fields[#fields + 1] = node
    fields[#fields + 1] = NOW .. '|' .. int(burst * COST - math.min(saved, burst * COST))
    fields[#fields + 1] = 'Q|' .. node
    fields[#fields + 1] = table.concat({ int(version), int(ends), int(rate), int(burst), int(cap) }, '|')
    taken = taken + 1
  end
end
call('HSET', K.pace, 'Q', NOW, unpack(fields))
return taken

-- compare: whether the shard has what others saw acknowledged. If not, it went back in time: a new epoch begins.
-- KEYS     the shard's
-- ARGV     1: 1 when these are all the marks there are, 2 number of marks, then epoch and sequence of each
-- returns  found (same, new_server, confirmed, went_back), the mark that is lacked (epoch, sequence; 0, 0) and the sequence
--          there was, epoch, sequence, 1 when nothing is leased, how often it went back, the last sign of life or ''
-- refuses  nothing

local ENDS_KEPT_MAX, JUMP, EPOCHS_SKIPPED = 32, 1000000000, 1000
local f = call('HMGET', K.shard, 'epoch', 'sequence', 'base', 'ends', 'met', 'server', 'stop', 'rollbacks', 'sign', 'fence',
  'stamp')
local epoch, sequence, base = num(f[1] or '1', 'epoch'), num(f[2] or '0', 'sequence'), num(f[3] or '1', 'base')
local met, confirmed, stop, rollbacks = f[5], f[6], f[7], num(f[8] or '0', 'rollbacks')
local fence, stamp = num(f[10] or '0', 'the counter of fences'), num(f[11] or '0', 'the stamp')

-- Where the epochs since `base` ended, oldest first.
local ends = {}
for at, last in string.gmatch(f[4] or '', '(%d+):(%d+)') do ends[#ends + 1] = { tonumber(at), tonumber(last) } end

-- What was acknowledged in that epoch, or nil: it never was.
local function had_in(at)
  if at == epoch then return sequence end
  if ends[1] and at < ends[1][1] then return ends[1][2] end
  for _, one in ipairs(ends) do
    if one[1] == at then return one[2] end
  end
end

local highest, lacked = 0, nil
for n = 0, num(ARGV[2], 'marks') - 1 do
  local at, seen = num(ARGV[3 + n * 2], 'the epoch of a mark'), num(ARGV[4 + n * 2], 'the sequence of a mark')
  highest = math.max(highest, at)
  local had = at >= base and had_in(at) or (at < base and math.huge or -1)
  if seen > had and (not lacked or at > lacked[1] or (at == lacked[1] and seen > lacked[2])) then lacked = { at, seen } end
end

local found = 'same'
if lacked then
  found = 'went_back'
  -- Whoever proves it may not know of the last lives of the server that were lost.
  epoch = math.max(epoch, highest) + EPOCHS_SKIPPED
  rollbacks = rollbacks + 1
  stop = '-1'
  -- Counters skip what may have been given out since.
  call('HSET', K.shard, 'epoch', int(epoch), 'base', int(epoch), 'stop', stop, 'rollbacks', int(rollbacks), 'fence',
    int(fence + JUMP), 'stamp', int(stamp + JUMP))
  if met then call('HSET', K.shard, 'server', met) end
  call('HDEL', K.shard, 'ends', 'history_by', 'history_until')
  -- A repeated claim must not be answered with leases that are stale.
  call('DEL', K.last_claim)
  confirmed = met
elseif met ~= confirmed then
  found = 'new_server'
  if ARGV[1] == '1' then
    found = 'confirmed'
    -- The first server begins an epoch as well, so that one that was emptied is not taken for it.
    ends[#ends + 1] = { epoch, sequence }
    while #ends > ENDS_KEPT_MAX do table.remove(ends, 1) end
    local texts = {}
    for n, one in ipairs(ends) do texts[n] = int(one[1]) .. ':' .. int(one[2]) end
    epoch = epoch + 1
    -- Whoever claimed history of the server before may have seen more of it than this one has.
    call('HSET', K.shard, 'ends', table.concat(texts, ','), 'epoch', int(epoch), 'stamp', int(stamp + JUMP), 'server',
      met or '')
    confirmed = met
  end
end
if lacked then call('HSET', K.shard, 'back_at', NOW) end
local by = lacked or { 0, 0 }
return { found, int(by[1]), int(by[2]), int(sequence), int(epoch), int(sequence), is_stopped(met, confirmed, stop) and 1 or 0,
  int(rollbacks), f[9] or '' }

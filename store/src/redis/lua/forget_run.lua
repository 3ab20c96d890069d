-- forget_run: a run that ended long enough ago is gone at once; then its batches go, the newest first, step by step.
-- KEYS     the shard's, then: runs being forgotten, segments left, run, its bad rows, then of each batch its hash, its
--          details, its payload
-- ARGV     1 run id, 2 keep ms, 3 keep ms with dead letters or '' (for ever), 4 batches that are left ('': not begun), 5
--          number of batches, then the payload name of each, then names of the run's counters
-- returns  status (step, not_yet, no_run), batches left
-- refuses  a run that has not ended, or not that long ago, or has dead letters; batches that are not the newest left

local id, keep, known, number = ARGV[1], num(ARGV[2], 'keep'), ARGV[4], num(ARGV[5], 'batches')
local forget, segments, run_key, bad_key = KEYS[OWN + 1], KEYS[OWN + 2], KEYS[OWN + 3], KEYS[OWN + 4]
local left = call('ZSCORE', forget, id)
call('ZCARD', segments)
left = left and num(left, 'the batches left')

if known == '' then
  if left then return { 'step', left } end
  local f = call('HMGET', run_key, 'lane', 'sites', 'sequence', 'complete', 'cancelled', 'error', 'created_at')
  if not f[1] then return { 'no_run', 0 } end
  local c = call('HMGET', K.count, id .. '|pending', id .. '|b_settled', id .. '|settled_at')
  local sequence = num(f[3], 'the sequence')
  local is_over
  if f[5] == '1' then is_over = not call('ZSCORE', K.to_cancel, id) else is_over = f[4] == '1' and not f[6] end
  local is_settled = num(c[1] or '0', 'pending') == 0 and num(c[2] or '0', 'the settled batches') == sequence
  local ended_at = num(c[3] or f[7], 'the end of a run')
  if not is_over or not is_settled or ended_at + keep > now then return { 'not_yet', 0 } end
  -- '/' is the character after '.'.
  local letter = call('ZRANGEBYLEX', K.dead_order, '[' .. id .. '.', '(' .. id .. '/', 'LIMIT', '0', '1')[1]
  if letter and (ARGV[3] == '' or ended_at + num(ARGV[3], 'keep') > now) then return { 'not_yet', 0 } end
  grow()
  if sequence > 0 then call('ZADD', forget, int(sequence), id) end
  split_end(id)
  call('SREM', K.parked, id)
  call('ZREM', K.runs, id)
  for site in string.gmatch(f[2] or '', '[^,]+') do call('HDEL', K.node, 'P|' .. f[1] .. '|' .. site .. '|' .. id) end
  for n = 6, #ARGV do call('HDEL', K.count, id .. '|' .. ARGV[n]) end
  call('DEL', run_key, bad_key)
  return { 'step', sequence }
end

if left ~= num(known, 'the batches left') then return { left and 'step' or 'no_run', left or 0 } end
local found = {}
for n = 0, number - 1 do
  local key = KEYS[OWN + 5 + n * 3]
  local f = call('HMGET', key, 'payload', 'h', 'z')
  -- Read before by another name: what it is now must go too.
  if f[1] and f[1] ~= ARGV[6 + n] then return { 'step', left } end
  found[#found + 1] = { id = id .. '.' .. int(left - n), key = key, details = KEYS[OWN + 6 + n * 3],
    payload = KEYS[OWN + 7 + n * 3], segments = f[2] or '', dead = f[3] or '' }
end
grow()
for _, b in ipairs(found) do
  call('DEL', b.key, b.details, b.payload)
  call('ZREM', K.to_retire, b.id)
  for index in string.gmatch(b.dead, '%d+') do dead_remove(b.id, tonumber(index)) end
  for name in string.gmatch(b.segments, '[^,]+') do call('ZADD', segments, NOW, name) end
end
left = left - number
if left > 0 then call('ZADD', forget, int(left), id) else call('ZREM', forget, id) end
return { 'step', left }

-- retry_run: exhausted recipients, and unknown ones if asked for, become pending again in a new generation.
-- KEYS     the shard's, then: run, then of each batch its hash and its details
-- ARGV     1 run id, 2 key, 3: 1 with unknown ones, 4 first sequence, 5 number of batches, 6 keys kept max
-- returns  status (step, no_run, cancelled, conflict), generation, recipients made pending, the last batch of the retry
-- refuses  all, until the server was compared; a cancelled run;
--          a known key that said something else about unknown ones; dead letters (they stay)

await_comparison()
local id, key, unknown = ARGV[1], ARGV[2], ARGV[3]
local first, number, kept = num(ARGV[4], 'sequence'), num(ARGV[5], 'batches'), num(ARGV[6], 'keys')
if not load_run(id, KEYS[OWN + 1]) then return { 'no_run', 0, 0, 0 } end
if run.cancelled then return { 'cancelled', 0, 0, 0 } end
local f = call('HMGET', KEYS[OWN + 1], 'retries', 'generation', 'sequence')
local known, lines = nil, {}
for line, k, u, generation, last in string.gmatch(f[1] or '', '((%S+) ([01]) (%d+) (%d+))') do
  lines[#lines + 1] = line
  if k == key then known = { unknown = u, generation = tonumber(generation), last = tonumber(last) } end
end
local is_new = not known
if is_new then
  known = { unknown = unknown, generation = num(f[2] or '0', 'the generation') + 1, last = num(f[3], 'the sequence') }
  lines[#lines + 1] = key .. ' ' .. unknown .. ' ' .. int(known.generation) .. ' ' .. int(known.last)
  while #lines > kept do table.remove(lines, 1) end
elseif known.unknown ~= unknown then
  return { 'conflict', 0, 0, 0 }
end

local found = {}
for n = 0, number - 1 do
  local b = first + n <= known.last
    and load_batch(id .. '.' .. int(first + n), KEYS[OWN + 2 + n * 2], KEYS[OWN + 3 + n * 2])
  if b and not b.retired and num(b.h.gen or '0', 'the generation of a batch') < known.generation then
    local from = place_of(b)
    if from ~= 'dead' then found[#found + 1] = { b, from } end
  end
end
-- All are read before the first write.
local recipients = 0
for _, pair in ipairs(found) do
  local b = pair[1]
  b.fields.gen = int(known.generation)
  for index = 0, b.count - 1 do
    if may_reopen(b, index, unknown == '1') and not b.dead[index] then
      change(b, index, reopen, reopen)
      b.reopened = true
      recipients = recipients + 1
    end
  end
end
for _, pair in ipairs(found) do
  local b, from = pair[1], pair[2]
  if b.reopened and from ~= 'leased' then put_back(b, from) else commit(b) end
end
if is_new then
  call('HSET', KEYS[OWN + 1], 'generation', int(known.generation), 'retries', table.concat(lines, '\n'))
end
if is_new or #found > 0 then write_run() end
return { 'step', known.generation, recipients, known.last }

-- cancel_batches: converts what ready and delayed batches, and those that end workers, of a cancelled run still have pending.
-- KEYS     the shard's, then: run, then of each batch its hash and its details
-- ARGV     1 run id, 2 first sequence, 3 number of batches, 4: 1 when these are the last of the run
-- returns  recipients that became cancelled or unknown
-- refuses  all, until the server was compared; a run that is not cancelled (nothing happens);
--          leased and settled batches (put back converts those)

await_comparison()
local id, first, number = ARGV[1], num(ARGV[2], 'sequence'), num(ARGV[3], 'batches')
if not load_run(id, KEYS[OWN + 1]) or not run.cancelled then return 0 end
local found = {}
for n = 0, number - 1 do
  local b = load_batch(id .. '.' .. int(first + n), KEYS[OWN + 2 + n * 2], KEYS[OWN + 3 + n * 2])
  if b then
    local from = place_of(b)
    -- Of what was set aside, only what can be read.
    local is_whole = from == 'dead' and string.find(call('HGET', K.dead, b.id), '|' .. ENDS_WORKERS .. '|', 1, true)
    if from == 'ready' or from == 'delayed' or is_whole then
      suspect(b)
      found[#found + 1] = { b, from }
    end
  end
end
for _, pair in ipairs(found) do put_back(pair[1], pair[2]) end
local converted = -(moved.pending or 0)
if ARGV[4] == '1' then call('ZREM', K.to_cancel, id) end
write_run()
return converted

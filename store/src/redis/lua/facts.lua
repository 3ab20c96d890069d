-- facts: what became of transactions of leases that may no longer be held; all of one batch.
-- KEYS     the shard's, then: batch, its details, its run
-- ARGV     1 batch id, 2 retry fraction, 3 number, then six each: fence, index, kind, code, detail, retry_after_ms
-- returns  one status each: applied, already, refused
-- refuses  all, until the server was compared; an unknown batch or index, a fence that never got an intent in it

await_comparison()
local id, fraction, number = ARGV[1], num(ARGV[2], 'fraction'), num(ARGV[3], 'facts')
local facts = {}
for n = 0, number - 1 do
  local at = 4 + n * 6
  fence_counter(ARGV[at])
  facts[#facts + 1] = { fence = ARGV[at], outcome = outcome_at(at + 1) }
end

local answers = {}
local b = load_run(string.match(id, '^(.+)%.%d+$') or '', KEYS[OWN + 3]) and load_batch(id, KEYS[OWN + 1], KEYS[OWN + 2])
if not b then
  for n = 1, number do answers[n] = 'refused' end
  return answers
end
local from, applied = place_of(b), suspect(b)
for n, f in ipairs(facts) do
  answers[n] = fact(b, f.fence, f.outcome, fraction)
  if answers[n] == 'applied' then applied = true end
end
if applied then
  if from == 'leased' then
    commit(b)
    keep_lease(b)
  elseif from == 'dead' then
    commit(b)
  else
    put_back(b, from)
  end
  write_run()
end
return answers

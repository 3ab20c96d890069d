-- quarantine: sets a leased batch aside whose hash or payload cannot be read.
-- KEYS     the shard's
-- ARGV     1 batch id, 2 fence ('': whoever holds it, when the lease has expired), 3 reason
-- returns  1 set aside, 0 not leased with that fence
-- refuses  a fence that is not current, a lease that has not expired

local hold = hold_of(ARGV[1])
if not hold then return 0 end
if ARGV[2] == '' then
  if hold.expires_at > now then return 0 end
elseif fences_differ(hold.fence, ARGV[2]) then
  return 0
end
quarantine(ARGV[1], hold, ARGV[3])
return 1

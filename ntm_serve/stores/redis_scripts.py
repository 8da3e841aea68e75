"""What redis does with a session, each in one script: nobody comes between its questions and its writes.

Rules of this file:
- A script touches the three keys of one session, which share a hash tag, so it runs on a cluster as well:
  KEYS are the session (a hash: what it is, who has it, where it stands), its records (a list of
  "first_step end_step payload"), its snapshots (a hash: payload by step).
- It asks first and writes last. Where redis is out of memory it refuses a script's first write if that takes
  memory, and none after it; so what adds is refused whole, and what lets go begins with that and is done.
- It answers a word and what belongs to it: KEPT, UNKNOWN, OWNED, CONFLICT, USED, EXISTS, or an ending.
- An ended session is what is left of its hash: who ended it, why and when.
- Commits and restarts of a claim are numbered as they are sent. One that was sent before a restart and comes
  after it, from a connection that was given up, is refused: its steps may be wanted again, so they do not tell.
- An epoch is the server's time in microseconds, or one more than the last: so it grows also where the
  session was forgotten, or redis was and has lost it.
"""

import hashlib
from typing import NamedTuple


class Script(NamedTuple):
    """sha: what redis calls it by."""

    text: str
    sha: str


def _script(text: str) -> Script:
    text = _SHARED + text
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_SHARED = """
local is = {}
do
    local names = {'epoch', 'owner', 'ending', 'message', 'next_step', 'oldest_step', 'used_at_s', 'head',
        'record_bytes', 'snapshot_bytes', 'ended_at_s', 'restarted'}
    local values = redis.call('HMGET', KEYS[1], unpack(names))
    for place, name in ipairs(names) do is[name] = values[place] end
    is.owner = is.owner or ''
end

local function text(number) return string.format('%.0f', number) end

local function gone()
    if not is.epoch then return {'UNKNOWN'} end
    if is.ending then return {is.ending, is.message} end
end

-- call: the number of a commit or restart, nil for others.
local function fault(owner, epoch, call)
    local answer = gone()
    if answer then return answer end
    local is_late = call and tonumber(call) < tonumber(is.restarted)
    if is.owner ~= owner or is.epoch ~= epoch or is_late then return {'OWNED', is.owner, is.epoch} end
end

local function new_epoch()
    local time = redis.call('TIME')
    return text(math.max(time[1] * 1000000 + time[2], (tonumber(is.epoch) or 0) + 1))
end

local function stored(word, owner, epoch)
    return {word, owner, epoch, is.head, is.next_step, is.oldest_step, is.used_at_s, is.snapshot_bytes,
        redis.call('HGETALL', KEYS[3]), redis.call('LRANGE', KEYS[2], 0, -1)}
end

-- The session stands there, with this snapshot or nil, and what it held is let go; the answer is by how much the
-- store grows, and the epoch.
local function stand_at(step, snapshot, used_at_s, epoch, restarted)
    local records, snapshots = redis.call('LLEN', KEYS[2]), redis.call('HLEN', KEYS[3])
    local before = (is.record_bytes or 0) + (is.snapshot_bytes or 0)
    redis.call('HSET', KEYS[1], 'epoch', epoch, 'restarted', restarted, 'used_at_s', used_at_s, 'next_step', step,
        'oldest_step', step, 'record_bytes', 0, 'snapshot_bytes', #(snapshot or ''))
    redis.call('DEL', KEYS[2], KEYS[3])
    if snapshot then redis.call('HSET', KEYS[3], step, snapshot) end
    return {'KEPT', -records, (snapshot and 1 or 0) - snapshots, #(snapshot or '') - before, epoch}
end

-- What the session held is let go; the answer is by how much the store grows, and when it ended.
local function bury(owner, ending, message, now_s)
    local records, snapshots = redis.call('LLEN', KEYS[2]), redis.call('HLEN', KEYS[3])
    redis.call('HDEL', KEYS[1], 'head', 'next_step', 'oldest_step', 'used_at_s', 'record_bytes', 'snapshot_bytes',
        'restarted')
    redis.call('DEL', KEYS[2], KEYS[3])
    redis.call('HSET', KEYS[1], 'ending', ending, 'message', message, 'ended_at_s', now_s, 'owner', owner)
    return {'KEPT', -records, -snapshots, -(is.record_bytes + is.snapshot_bytes), now_s}
end
"""

CREATE = _script("""
-- owner, head, now_s, the step it begins at; the snapshot, if it begins with one
local owner, head, now_s, step, snapshot = unpack(ARGV)
if is.epoch and not is.ending then
    local same = is.owner == owner and is.head == head and is.oldest_step == step and is.next_step == step
        and redis.call('HGET', KEYS[3], step) == (snapshot or false)
    if not same then return {'EXISTS'} end
end
redis.call('HSET', KEYS[1], 'owner', owner, 'head', head)
redis.call('HDEL', KEYS[1], 'ending', 'message', 'ended_at_s')
return stand_at(step, snapshot, is.used_at_s or now_s, new_epoch(), 0)
""")

RESTART = _script("""
-- owner, epoch, number of the call, used_at_s, step and snapshot that it stands at
local owner, epoch, call, used_at_s, step, snapshot = unpack(ARGV)
local answer = fault(owner, epoch, call)
if answer then return answer end
if is.restarted == call then return {'KEPT', 0, 0, 0, epoch} end
return stand_at(step, snapshot, used_at_s, epoch, call)
""")

CLAIM = _script("""
-- owner; an epoch whose owner's lease is over, or ""
local owner, over = unpack(ARGV)
local answer = gone()
if answer then return answer end
if is.owner ~= '' and is.owner ~= owner and is.epoch ~= over then return {'OWNED', is.owner, is.epoch} end
local epoch = new_epoch()
redis.call('HSET', KEYS[1], 'epoch', epoch, 'owner', owner, 'restarted', 0)
return stored('KEPT', owner, epoch)
""")

READ = _script("""
return gone() or stored('KEPT', is.owner, is.epoch)
""")

COMMIT = _script("""
-- owner, epoch, number of the call, used_at_s, first step and end step of the records, keep_from_step, step of the
-- snapshot ("" for what there is not), the snapshot, the size of the records, the records
local owner, epoch, call, used_at_s, first_step, end_step, keep_from, step, snapshot, size = unpack(ARGV, 1, 10)
local answer = fault(owner, epoch, call)
if answer then return answer end
local next_step, oldest = tonumber(is.next_step), tonumber(is.oldest_step)
local record_bytes, snapshot_bytes = tonumber(is.record_bytes), tonumber(is.snapshot_bytes)
local before = record_bytes + snapshot_bytes
local records, snapshots = 0, 0
if #ARGV > 10 then
    if tonumber(first_step) < next_step and tonumber(end_step) == next_step then
        local newest = redis.call('LINDEX', KEYS[2], -1)
        if newest == ARGV[#ARGV] or (not newest and step == end_step) then return {'KEPT', 0, 0, 0} end
    end
    if tonumber(first_step) ~= next_step then return {'CONFLICT', is.next_step, is.oldest_step} end
    next_step = tonumber(end_step)
end
if step ~= '' and (tonumber(step) < oldest or tonumber(step) > next_step) then
    return {'CONFLICT', is.next_step, is.oldest_step}
end

for first = 11, #ARGV, 1000 do
    redis.call('RPUSH', KEYS[2], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
records = #ARGV - 10
record_bytes = record_bytes + size
if step ~= '' then
    snapshot_bytes = snapshot_bytes + #snapshot - redis.call('HSTRLEN', KEYS[3], step)
    snapshots = redis.call('HSET', KEYS[3], step, snapshot)
end

local begin = oldest
if keep_from ~= '' then
    local steps = redis.call('HKEYS', KEYS[3])
    for _, one in ipairs(steps) do
        if tonumber(one) <= tonumber(keep_from) then begin = math.max(begin, tonumber(one)) end
    end
    if begin > oldest then
        for _, one in ipairs(steps) do
            if tonumber(one) < begin then
                snapshot_bytes = snapshot_bytes - redis.call('HSTRLEN', KEYS[3], one)
                snapshots = snapshots - redis.call('HDEL', KEYS[3], one)
            end
        end
    end
end
if begin > oldest and begin == next_step then
    records = records - redis.call('LLEN', KEYS[2])
    record_bytes = 0
    redis.call('DEL', KEYS[2])
elseif begin > oldest then
    while true do
        local record = redis.call('LINDEX', KEYS[2], 0)
        local _, head, last = string.find(record, '^%d+ (%d+) ')
        if tonumber(last) > begin then break end
        redis.call('LPOP', KEYS[2])
        records = records - 1
        record_bytes = record_bytes - (#record - head)
    end
end
redis.call('HSET', KEYS[1], 'used_at_s', used_at_s, 'next_step', text(next_step), 'oldest_step', text(begin),
    'record_bytes', text(record_bytes), 'snapshot_bytes', text(snapshot_bytes))
return {'KEPT', records, snapshots, record_bytes + snapshot_bytes - before}
""")

RELEASE = _script("""
-- owner, epoch
local answer = fault(ARGV[1], ARGV[2])
if answer then return answer end
redis.call('HDEL', KEYS[1], 'owner')
return {'KEPT'}
""")

END = _script("""
-- owner, epoch, ending, message, now_s
local owner, epoch, ending, message, now_s = unpack(ARGV)
if is.ending and is.owner == owner and is.epoch == epoch then return {'KEPT', 0, 0, 0, is.ended_at_s} end
return fault(owner, epoch) or bury(owner, ending, message, now_s)
""")

EXPIRE = _script("""
-- whose claim, nobody's or over: owner, epoch; unused_since_s, message, now_s
local owner, epoch, unused_since_s, message, now_s = unpack(ARGV)
local answer = fault(owner, epoch)
if answer then return answer end
if tonumber(is.used_at_s) >= tonumber(unused_since_s) then return {'USED', is.used_at_s} end
return bury('', 'EXPIRED', message, now_s)
""")

FORGET = _script("""
-- ended_before_s
if not is.ending or tonumber(is.ended_at_s) >= tonumber(ARGV[1]) then return {'USED'} end
redis.call('DEL', KEYS[1])
return {'KEPT'}
""")

ALL = (CREATE, RESTART, CLAIM, READ, COMMIT, RELEASE, END, EXPIRE, FORGET)

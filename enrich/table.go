package enrich

// table finds the numbers under which byte strings were put in. It keeps no
// strings itself: whoever asks compares. Its memory is kept for the next use.
type table struct {
	slots []slot // a power of two, at most half full
	used  int
}

// slot is a place in a table; number is one more than what was put in, so that
// zero means empty.
type slot struct{ hash, number uint32 }

const slotSize = 8

// find returns the number for which same says yes, or -1, and the place where
// it is or would be put.
func (t *table) find(hash uint32, same func(number int) bool) (number, place int) {
	mask := uint32(len(t.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		s := t.slots[i]
		if s.number == 0 {
			return -1, int(i)
		}
		if s.hash == hash && same(int(s.number-1)) {
			return int(s.number - 1), int(i)
		}
	}
}

// likely is the number beside the hash's first place, counted from 1, whatever it
// stands for; 0: nothing stands there. The table must not be empty.
func (t *table) likely(hash uint32) uint32 {
	return t.slots[hash&uint32(len(t.slots)-1)].number
}

// put stores a number at a place that find returned. There must be room.
func (t *table) put(place int, hash uint32, number int) {
	t.slots[place] = slot{hash: hash, number: uint32(number) + 1}
	t.used++
}

// full says that there is no room for another number.
func (t *table) full() bool { return 2*(t.used+1) > len(t.slots) }

// next is the number of slots to grow to.
func (t *table) next() int { return max(2*len(t.slots), 512) }

// rehash moves what is there into slots, which are empty.
func (t *table) rehash(slots []slot) {
	old := t.slots
	t.slots = slots
	mask := uint32(len(slots) - 1)
	for _, s := range old {
		if s.number == 0 {
			continue
		}
		i := s.hash & mask
		for slots[i].number != 0 {
			i = (i + 1) & mask
		}
		slots[i] = s
	}
}

func (t *table) reset() {
	if t.used > 0 {
		clear(t.slots)
		t.used = 0
	}
}

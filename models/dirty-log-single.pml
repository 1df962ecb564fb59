/*
 * kvm_rmap_clear_dirty() against everything that a holder of mmu_lock does meanwhile to SPTEs,
 * rmaps and shadow pages.
 *
 * Two gfns have the same pfn, i.e. their SPTEs are equal, which is the worst case for a CMPXCHG.
 * Two SPTEs, one of which is in a shadow page that can be freed, can map either gfn, be zapped, be
 * an MMIO SPTE, or link another shadow page.  The rmap of a gfn that has one SPTE isn't locked by
 * the harvester, that of a gfn with more is, as its descriptor is freed at once.
 *
 * What must hold: no guest write is left out of the dirty log; nothing but a leaf SPTE is changed;
 * nothing is used after it was freed; what is in a locked rmap maps the rmap's gfn, or nothing.
 *
 * Broken: FREED_AT_ONCE CLEAR_BIT NO_LEAF_CHECK MANY_UNLOCKED MARK_BEFORE_RMAP
 *
 * Sequentially consistent; see dirty-log-single.litmus for the order.
 */
#define G		0
#define H		1
#define NONE		2

#define NR_OPS		6	/* of the holder of mmu_lock */

/* An SPTE: non-present, leaf, writable leaf, MMIO, link to another shadow page. */
#define EMPTY		0
#define LEAF		1
#define WLEAF		2
#define MMIO		3
#define LINK		4

byte spte[2];
byte owner[2] = NONE;		/* the gfn that an SPTE maps, the model's own knowledge */
byte rmap[2];			/* a bit per SPTE */
bool many[2];			/* the rmap points to a descriptor */
bool rmap_lock[2];
bool desc_freed[2];
bool retired, freed;		/* the shadow page of the first SPTE */
bool reading, grace;		/* an RCU section, and one that the page has to wait for */
bool dirty[2];
bool written[2];		/* since the page was last copied */
bool holder_done, harvester_done;

/* What the hardware does for a vCPU, at any time. */
active proctype guest()
{
	do
	:: atomic { spte[0] == WLEAF && !written[owner[0]] -> written[owner[0]] = true }
	:: atomic { spte[1] == WLEAF && !written[owner[1]] -> written[owner[1]] = true }
	:: break
	od
}

active proctype holder()
{
	byte n, s, x;

	do
	:: n == NR_OPS -> break
	:: n < NR_OPS ->
		n++;
		if
		:: s = 0
		:: s = 1
		fi;
		if
		:: (s == 1 || !retired) && (spte[s] == EMPTY || spte[s] == MMIO) ->
			/* mmu_set_spte() */
			if
			:: x = G
			:: x = H
			fi;
			atomic { spte[s] = WLEAF; owner[s] = x }
#ifdef MARK_BEFORE_RMAP
			dirty[x] = true;
#endif
			atomic { rmap[x] == 0 || !rmap_lock[x] ->
				if
				:: rmap[x] -> many[x] = true; desc_freed[x] = false
				:: else
				fi;
				rmap[x] = rmap[x] | (1 << s)
			}
#ifndef MARK_BEFORE_RMAP
			dirty[x] = true;
#endif
		:: spte[s] == LEAF || spte[s] == WLEAF ->
			/* drop_spte() */
			atomic { x = owner[s]; spte[s] = EMPTY; owner[s] = NONE }
			atomic { !rmap_lock[x] ->
				rmap[x] = rmap[x] & ~(1 << s);
				if
				:: rmap[x] == 0 && many[x] -> many[x] = false; desc_freed[x] = true
				:: else
				fi
			}
		:: s == 0 && !retired && spte[0] == EMPTY -> spte[0] = MMIO
		:: s == 0 && !retired && spte[0] == EMPTY -> spte[0] = LINK
		:: spte[s] == LINK -> spte[s] = EMPTY
		:: s == 0 && !retired && spte[0] == EMPTY ->
			/* kvm_mmu_free_shadow_page() */
			atomic { retired = true; grace = reading }
#ifndef FREED_AT_ONCE
			!grace;
#endif
			freed = true
		:: else
		fi
	:: break
	od;
	holder_done = true
}

inline lock_rcu()
{
	reading = true
}

inline unlock_rcu()
{
	atomic { reading = false; grace = false }
}

/* spte_clear_dirty() */
inline clear_dirty(s)
{
	do
	:: assert(s == 1 || !freed);
		old = spte[s];
		if
		:: old == WLEAF
#ifdef NO_LEAF_CHECK
		:: old == LINK
#endif
		:: else -> break
		fi;
#ifdef CLEAR_BIT
		atomic {
			assert(s == 1 || !freed);
			assert(spte[s] != MMIO && spte[s] != LINK);
			if
			:: spte[s] == WLEAF -> spte[s] = LEAF
			:: else
			fi
		}
		break
#else
		atomic {
			assert(s == 1 || !freed);
			if
			:: spte[s] == old -> assert(old == WLEAF); spte[s] = LEAF; break
			:: else
			fi
		}
#endif
	od
}

active proctype harvester()
{
	byte n, x, old, list;
	bool is_many;

	do
	:: n == 3 -> break
	:: n < 3 ->
		x = (n == 1 -> H : G);
		n++;
		if
		:: atomic { dirty[x] -> dirty[x] = false }
		:: !dirty[x] -> goto next
		fi;
		lock_rcu();
		atomic { list = rmap[x]; is_many = many[x] }
		if
		:: list && !is_many && (list & 1) -> clear_dirty(0)
		:: list && !is_many && (list & 2) -> clear_dirty(1)
		:: else
		fi;
		unlock_rcu();
		if
		:: is_many ->
#ifdef MANY_UNLOCKED
			assert(!desc_freed[x]);
			list = rmap[x];
#else
			atomic {
				!rmap_lock[x] -> list = rmap[x];
				rmap_lock[x] = (list != 0)
			}
#endif
			if
			:: list & 1 ->
				assert(owner[0] == x || spte[0] == EMPTY);
				clear_dirty(0)
			:: else
			fi;
			if
			:: list & 2 ->
				assert(owner[1] == x || spte[1] == EMPTY);
				clear_dirty(1)
			:: else
			fi;
#ifndef MANY_UNLOCKED
			if
			:: list -> rmap_lock[x] = false
			:: else
			fi
#endif
		:: else
		fi;
		/* Flush TLBs, and copy the page. */
		written[x] = false;
next:
		skip
	od;
	harvester_done = true
}

active proctype end()
{
	atomic {
		holder_done && harvester_done;
		assert(!written[G] || dirty[G]);
		assert(!written[H] || dirty[H])
	}
}

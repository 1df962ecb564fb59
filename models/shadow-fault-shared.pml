/*
 * Faults that install SPTEs with mmu_lock held for read, mmu_set_spte_shared(), against each
 * other, and against all that changes what they map: a vCPU that changes a guest's PTE and
 * executes INVLPG, an mmu_notifier that unmaps a gfn, both with mmu_lock held for write, and a
 * harvester of the dirty log, without mmu_lock.
 *
 * Two SPTEs: the first is for the PTE that changes between two gfns, the second always maps the
 * first gfn.  Faults are on either.
 *
 * What must hold: whenever mmu_lock is taken for write, an SPTE that is present is in the rmap
 * of the gfn that it maps, and that its translation says, and in no other; after INVLPG, the SPTE
 * is what the PTE is; after unmapping, nothing maps the gfn; an SPTE that is writable is marked
 * dirty, once all are done.
 *
 * Broken: CHECK_OUTSIDE OVER_PRESENT RMAP_PLAIN MARK_BEFORE_RMAP UNLOCK_EARLY
 *
 * Sequentially consistent: all that is read and written without mmu_lock is by atomic operations,
 * or see dirty-log-single.litmus.
 */
#define A		0
#define B		1

#define EMPTY		0
#define LEAF		1
#define WLEAF		2

#define NR_FAULTS	2	/* of each vCPU */
#define NR_CHANGES	2	/* of the PTE */

byte pte = A;
byte spte[2];
byte owner[2];			/* what the SPTE maps, the model's own knowledge */
byte translation[2];
byte rmap[2];			/* a bit per SPTE */
bool dirty[2];
byte readers;
bool writer;
byte running = 5;

inline read_lock()
{
	atomic { !writer -> readers++ }
}

inline read_unlock()
{
	readers--
}

#define CONSISTENT(s)	(spte[s] == EMPTY || \
			 (translation[s] == owner[s] && (rmap[owner[s]] & (1 << s))))
#define ABSENT(s)	(spte[s] != EMPTY || (!(rmap[A] & (1 << s)) && !(rmap[B] & (1 << s))))

inline write_lock()
{
	atomic {
		!writer && readers == 0 -> writer = true;
		assert(CONSISTENT(0) && CONSISTENT(1) && ABSENT(0) && ABSENT(1));
		assert(!(rmap[A] & rmap[B]))
	}
}

inline write_unlock()
{
	writer = false
}

active [2] proctype fault()
{
	byte n, s, gfn, old, list;

	do
	:: n == NR_FAULTS -> break
	:: n < NR_FAULTS ->
		n++;
		if
		:: s = 0
		:: s = 1
		fi;
		/* FNAME(walk_addr)() */
		gfn = (s == 0 -> pte : A);
#ifdef CHECK_OUTSIDE
		if
		:: s == 0 && pte != gfn -> goto next
		:: else
		fi;
#endif
		read_lock();
#ifndef CHECK_OUTSIDE
		/* FNAME(gpte_changed)() */
		if
		:: s == 0 && pte != gfn -> goto unlock
		:: else
		fi;
#endif
		old = spte[s];
#ifndef OVER_PRESENT
		if
		:: old != EMPTY -> goto unlock
		:: else
		fi;
#endif
		if
		:: atomic { spte[s] == old -> spte[s] = WLEAF; owner[s] = gfn }
		:: spte[s] != old -> goto unlock
		fi;
#ifdef UNLOCK_EARLY
		read_unlock();
#endif
		translation[s] = gfn;
#ifdef MARK_BEFORE_RMAP
		dirty[gfn] = true;
#endif
#ifdef RMAP_PLAIN
		list = rmap[gfn];
		rmap[gfn] = list | (1 << s);
#else
		rmap[gfn] = rmap[gfn] | (1 << s);
#endif
#ifndef MARK_BEFORE_RMAP
		dirty[gfn] = true;
#endif
#ifdef UNLOCK_EARLY
		goto next;
#endif
unlock:
		read_unlock();
next:
		skip
	od;
	running--
}

active proctype invalidate()
{
	byte n;

	do
	:: n == NR_CHANGES -> break
	:: n < NR_CHANGES ->
		n++;
		pte = (pte == A -> B : A);
		/* kvm_mmu_invalidate_addr() */
		write_lock();
		if
		:: spte[0] != EMPTY && translation[0] != pte ->
			spte[0] = EMPTY;
			rmap[translation[0]] = rmap[translation[0]] & ~1
		:: else
		fi;
		write_unlock();
		/* The vCPU uses what is there. */
		atomic { assert(spte[0] == EMPTY || owner[0] == pte) }
	od;
	running--
}

active proctype unmap()
{
	/* kvm_unmap_gfn_range(), of the first gfn */
	write_lock();
	if
	:: rmap[A] & 1 -> spte[0] = EMPTY
	:: else
	fi;
	if
	:: rmap[A] & 2 -> spte[1] = EMPTY
	:: else
	fi;
	rmap[A] = 0;
	assert(spte[0] == EMPTY || owner[0] != A);
	assert(spte[1] == EMPTY);
	write_unlock();
	running--
}

active proctype harvest()
{
	byte n, list;

	do
	:: n == 2 -> break
	:: n < 2 ->
		if
		:: atomic { dirty[n] -> dirty[n] = false }
		:: !dirty[n] -> goto next
		fi;
		list = rmap[n];
		if
		:: list & 1 ->
			atomic {
				if
				:: spte[0] == WLEAF -> spte[0] = LEAF
				:: else
				fi
			}
		:: else
		fi;
		if
		:: list & 2 ->
			atomic {
				if
				:: spte[1] == WLEAF -> spte[1] = LEAF
				:: else
				fi
			}
		:: else
		fi;
next:
		n++
	od;
	running--
}

active proctype end()
{
	atomic {
		running == 0;
		assert(spte[0] != WLEAF || dirty[owner[0]]);
		assert(spte[1] != WLEAF || dirty[owner[1]])
	}
}

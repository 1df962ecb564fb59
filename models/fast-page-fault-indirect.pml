/*
 * fast_page_fault_shadow() against everything that changes an SPTE: a holder of mmu_lock
 * that zaps it (recycling, mmu_notifier, INVLPG) and, when the guest has re-pointed its PTE,
 * creates it again for another gfn with the same pfn; and harvesters of the dirty log.
 *
 * What must hold: a write is logged for the gfn it was made to, or the gfn is harvested after
 * the write; and no SPTE comes back that was zapped.
 *
 * Zapping doesn't wait for vCPUs that are walking page tables, i.e. it's the lock of the rmap,
 * and that the SPTE is in the rmap, that makes it right.  Looking at the SPTE and at its
 * translation once more (TRANSLATION) isn't enough: a harvester that doesn't lock the rmap of a
 * single SPTE can write-protect one that isn't in its rmap yet.
 *
 * Broken: NO_TRYLOCK NO_MEMBERSHIP TRANSLATION MARK_OMITTED PLAIN_STORE PROTECT_FIRST
 *
 * Sequentially consistent; the order of what isn't locked is for the litmus tests.
 */
#define A		0
#define B		1
#define NONE		2

/* The SPTE: 0, or present, and perhaps writable.  The pfn is always the same. */
#define PRESENT		1
#define WRITABLE	2

byte spte = PRESENT;		/* write-protected by the harvest of A */
byte owner = A;			/* whose mapping the SPTE is, the model's own knowledge */
byte translation = A;		/* sp->shadowed_translation */
bool member[2] = { true, false };
bool rmap_lock[2];
bool mmu_lock;
bool walking;			/* READING_SHADOW_PAGE_TABLES */
bool dirty[2] = { true, false };	/* by another SPTE of A, or KVM itself */
bool written[2];		/* since the page was last harvested */
byte fixers = 2;		/* vCPUs that have yet to return */

inline lock(l)
{
	atomic { !l -> l = true }
}

/* What the hardware does for a vCPU, at any time. */
active proctype guest()
{
	do
	:: atomic { spte & WRITABLE ->
		assert(owner != NONE);
		written[owner] = true
	   }
	:: break
	od
}

/* The fast page fault. */
active proctype fast()
{
	byte old, gfn;
	bool locked = false, fixed = false;

	walking = true;
	old = spte;
	if
	:: old != PRESENT -> goto out
	:: else
	fi;
	gfn = translation;
	/* The rmap may have other SPTEs, i.e. can be locked if this one isn't in it. */
#if !defined(NO_TRYLOCK) && !defined(ZAP_WAITS)
	if
	:: atomic { !rmap_lock[gfn] -> rmap_lock[gfn] = true; locked = true }
	:: rmap_lock[gfn] -> goto out
	fi;
#endif
#ifndef ZAP_WAITS
#ifdef TRANSLATION
	if
	:: spte != old -> goto unlock
	:: else
	fi;
	if
	:: translation != gfn -> goto unlock
	:: else
	fi;
#elif !defined(NO_MEMBERSHIP)
	if
	:: !member[gfn] -> goto unlock
	:: else
	fi;
#endif
#endif
#ifdef PLAIN_STORE
	spte = old | WRITABLE;
	fixed = true;
#else
	atomic {
		if
		:: spte == old -> spte = old | WRITABLE; fixed = true
		:: else
		fi
	}
#endif
unlock:
	if
	:: locked -> rmap_lock[gfn] = false
	:: else
	fi;
#ifndef MARK_OMITTED
	if
	:: fixed -> dirty[gfn] = true
	:: else
	fi;
#endif
out:
	walking = false;
	fixers--
}

/* A TLB flush, by request: waits for vCPUs that are walking page tables. */
inline flush()
{
#if defined(ZAP_WAITS) && !defined(NO_WAIT)
	!walking
#else
	skip
#endif
}

/* A holder of mmu_lock: drop_spte(), and then mmu_set_spte() for a PTE that maps B. */
active proctype slow()
{
	byte gfn = translation;

	lock(mmu_lock);
	atomic { spte = 0; owner = NONE }
	lock(rmap_lock[gfn]);
	member[gfn] = false;
	rmap_lock[gfn] = false;
	if
	:: true ->
		/* A write to the page, via B. */
		atomic { spte = PRESENT | WRITABLE; owner = B }
#ifndef FLUSH_LAST
		flush();
#endif
		translation = B;
		lock(rmap_lock[B]);
		member[B] = true;
		rmap_lock[B] = false;
		dirty[B] = true
#ifdef FLUSH_LAST
		;
		flush()
#endif
	:: true
		/* Nobody uses it anymore. */
	fi;
	mmu_lock = false;
	fixers--
}

inline harvest_gfn(gfn)
{
	if
	:: atomic { dirty[gfn] ->
#ifndef PROTECT_FIRST
		dirty[gfn] = false
#endif
	   }
		if
		:: true ->
			lock(rmap_lock[gfn]);
			if
			:: atomic { member[gfn] && spte & WRITABLE -> spte = PRESENT }
			:: else
			fi;
			rmap_lock[gfn] = false
#ifndef ZAP_WAITS
		:: true ->
			/* The rmap has a single SPTE. */
			if
			:: member[gfn] ->
				if
				:: atomic { spte & WRITABLE -> spte = PRESENT }
				:: else
				fi
			:: else
			fi
#endif
		fi;
#ifdef PROTECT_FIRST
		dirty[gfn] = false;
#endif
		/* The page is copied. */
		written[gfn] = false
	:: else
	fi
}

active proctype harvester()
{
	harvest_gfn(A);
	harvest_gfn(B);
	harvest_gfn(A);
	harvest_gfn(B);

	/* The last one, with all vCPUs stopped. */
	fixers == 0;
	assert(!written[A] || dirty[A]);
	assert(!written[B] || dirty[B])
}

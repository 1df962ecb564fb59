/*
 * arm64: a harvest of the dirty log against a nested guest, whose stage-2 page table and TLB entries
 * are those of a nested MMU.  That can't be looked up by gfn, i.e. it is write-protected as a whole,
 * with mmu_lock held for write, by each harvest that reaps anything, and its TLBs are flushed, by a
 * VMID of its own.  "other" is a harvest of other pages, which may drop mmu_lock in between.
 *
 * What must hold: a write to the page is followed by a copy, or its dirty bit is set.
 *
 * Broken: NO_FLUSH PROTECT_FIRST MARK_FIRST FLUSH_IF_CHANGED
 */
bool pte = true;		/* the page's in the nested MMU, writable */
bool tlb = true;		/* has the page, writable */
bool dirty = true;
bool written = true;		/* since the page was copied */
bool locked;			/* mmu_lock */
bool changed;
bool stopped;

inline lock()
{
	atomic { !locked -> locked = true }
}

active proctype vcpu()
{
	do
	:: atomic { tlb -> written = true }
	:: atomic { !tlb && pte -> tlb = true }
	:: !tlb && !pte ->
#ifdef MARK_FIRST
		dirty = true;
#endif
		lock();
		pte = true;
		locked = false;
#ifndef MARK_FIRST
		dirty = true
#endif
	:: break
	od;
	stopped = true
}

active proctype other()
{
	do
	:: lock();
		pte = false;
		locked = false;
		lock();
		tlb = false;
		locked = false
	:: break
	od
}

inline harvest()
{
	if
	:: dirty ->
#ifndef PROTECT_FIRST
		dirty = false;
#endif
		lock();
		changed = pte;
		pte = false;
#ifdef FLUSH_IF_CHANGED
		if
		:: changed -> tlb = false
		:: else
		fi;
#elif !defined(NO_FLUSH)
		tlb = false;
#endif
		locked = false;
#ifdef PROTECT_FIRST
		dirty = false;
#endif
		written = false
	:: else
	fi
}

active proctype harvester()
{
	harvest();
	harvest();

	stopped;
	assert(!written || dirty)
}

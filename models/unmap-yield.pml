/*
 * A gfn that begins to hold a page table of the guest, against an unmapping that drops mmu_lock, or
 * a CLEAR of the dirty log that write-protects the huge page around it.  What KVM has shadowed is in
 * sync as long as the guest can't write the page table without KVM noticing.
 *
 * account_shadowed() takes mmu_lock, and flushes TLBs only if it finds an SPTE that is writable, or
 * that a fast page fault may make writable, i.e. that is MMU-writable.
 *
 * What must hold: a vCPU doesn't write by its TLB what is shadowed.
 *
 * LATE_FLUSH is what goes wrong if mmu_lock is dropped between zapping the SPTE and flushing, as the
 * handler of the next memslot does.  CLEARS_MMU_WRITABLE is what goes wrong if CLEAR, which flushes
 * after it has dropped mmu_lock, takes more than W.
 *
 * Broken: LATE_FLUSH CLEARS_MMU_WRITABLE
 */
bool mmu_lock;
bool w = true, mmu_w = true;	/* of the SPTE, zapped if it has neither */
bool tlb = true;		/* of the vCPU that writes: whether it allows that */
bool shadowed;

inline lock()
{
	atomic { !mmu_lock -> mmu_lock = true }
}

inline unlock()
{
	mmu_lock = false
}

/* Two memslots of the same memory, of which the second has nothing mapped, but is large. */
proctype unmapper()
{
	lock();
	atomic { w = false; mmu_w = false };
#ifndef LATE_FLUSH
	tlb = false;
#endif
	unlock();
	lock();
#ifdef LATE_FLUSH
	tlb = false;
#endif
	unlock()
}

proctype clearer()
{
	lock();
#ifdef CLEARS_MMU_WRITABLE
	atomic { w = false; mmu_w = false };
#else
	w = false;
#endif
	unlock();
	tlb = false
}

proctype shadower()
{
	lock();
	if
	:: atomic { w || mmu_w -> w = false; mmu_w = false };
		tlb = false
	:: else
	fi;
	shadowed = true;
	unlock()
}

proctype writer()
{
	byte n = 0;

	do
	:: n < 4 ->
		n++;
		if
		:: atomic { tlb -> assert(!shadowed) }
		:: atomic { !tlb && w -> tlb = true }
		:: atomic { !tlb && !w && mmu_w -> w = true }	/* a fast page fault */
		:: !tlb && !w && !mmu_w ->
			lock();
			if
			:: !shadowed -> atomic { w = true; mmu_w = true }
			:: else		/* emulated, i.e. noticed */
			fi;
			unlock()
		fi
	:: break
	od
}

init {
	run unmapper();
	run clearer();
	run shadower();
	run writer()
}

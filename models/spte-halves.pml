/*
 * An SPTE on a 32-bit host with EPT: Writable is in the low half, MMU-writable in the high one.
 * KVM write-protects a gfn, because it is to be shadowed, with mmu_lock held, and writes the halves
 * one after the other; a fast page fault takes no lock, and exchanges both at once.
 *
 * What must hold: in the end, the SPTE isn't writable.
 *
 * FAST is what goes wrong if page faults are fixed fast although the halves are written separately.
 *
 * Broken: FAST
 */
bool w, mmu_w = true;
byte running = 2;

/* spte_write_protect(), __update_clear_spte_slow() */
proctype write_protect()
{
	w = false;
	mmu_w = false;
	running--
}

proctype fast_page_fault()
{
	bool old_w, old_mmu_w;

#ifdef FAST
	/* get_64bit spte, then CMPXCHG8B */
	atomic { old_w = w; old_mmu_w = mmu_w };
	if
	:: !old_w && old_mmu_w ->
		atomic {
			if
			:: w == old_w && mmu_w == old_mmu_w -> w = true
			:: else
			fi
		}
	:: else
	fi;
#endif
	running--
}

init {
	if
	:: w = true
	:: w = false
	fi;
	run write_protect();
	run fast_page_fault();
	running == 0;
	assert(!w)
}

/*
 * A harvest of the dirty log against a vCPU with a TLB: the dirty bit is cleared, the PTE is
 * write-protected, TLBs are flushed, and only then userspace copies the page, i.e. the ioctl has
 * returned.  The vCPU writes by means of its TLB, fills it from the PTE, or takes a fault, which
 * makes the PTE writable, and then sets the dirty bit.
 *
 * What must hold: a write is followed by a copy, or its dirty bit is set.
 *
 * Emulation can't show most of this: TLBs of emulated CPUs are flushed by more than what
 * architectures ask for, e.g. each entry of the guest.
 *
 * Broken: NO_FLUSH FLUSH_FIRST COPY_FIRST MARK_FIRST PROTECT_FIRST
 */
bool pte = true;		/* writable */
bool tlb = true;		/* has the page, writable */
bool dirty = true;
bool written = true;		/* since the page was copied */
bool stopped;

active proctype vcpu()
{
	do
	:: atomic { tlb -> written = true }
	:: atomic { !tlb && pte -> tlb = true }
	:: !tlb && !pte ->
#ifdef MARK_FIRST
		dirty = true;
		pte = true
#else
		pte = true;
		dirty = true
#endif
	:: break
	od;
	stopped = true
}

inline harvest()
{
	if
	:: dirty ->
#ifdef PROTECT_FIRST
		pte = false;
		dirty = false;
#else
		dirty = false;
#ifdef FLUSH_FIRST
		tlb = false;
#endif
		pte = false;
#endif
#ifdef COPY_FIRST
		written = false;
#endif
#if !defined(NO_FLUSH) && !defined(FLUSH_FIRST)
		tlb = false;
#endif
#ifndef COPY_FIRST
		written = false
#endif
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

/*
 * Deferred TLB flushes that a vCPU has done by itself: a vCPU remembers how many were deferred when it
 * last flushed all of its TLB.  If that is all of them, its own INVLPG flushes nothing, and whoever
 * relies on the flush doesn't ask it to flush.
 *
 * The vCPU has two contexts, L1's and L2's, whose TLB entries have different tags, i.e. are flushed by
 * themselves unless all are.  Another vCPU's INVLPG drops the SPTE, and defers the flush; so does
 * another one's CR3 load, which clears the mark by which the vCPU's INVLPG knows that it has to look
 * at SPTEs.  An MMU notifier takes the page.
 *
 * What must hold: once the page was given back, no TLB has it; and once the vCPU has executed INVLPG,
 * its TLB has no entry that is older, even if the CPU's own invalidation of one address isn't
 * relied on.
 *
 * Broken: ONE_CONTEXT MARK_FIRST ASK_FIRST DEFER_FIRST
 */
bool spte = true;
bool tlb[2] = true;		/* of a page that spte maps, or has mapped */
bool old[2] = true;		/* the entry is one that the next INVLPG is for */
bool ctx;
bool marked = true;		/* a shadow page is out of sync */
bool request;
bool unmapping;			/* faults have to wait, mmu_invalidate_in_progress */
bool gone;			/* the page was given back */
bool mmu_lock;
byte deferred;
byte completed;
byte up_to;

inline lock() { atomic { !mmu_lock -> mmu_lock = true } }
inline unlock() { mmu_lock = false }

/* The vCPU isn't in the guest meanwhile. */
inline flush_all()
{
	seen = deferred;
	d_step {
		tlb[0] = false; old[0] = false;
		tlb[1] = false; old[1] = false
	}
	up_to = seen
}

/* KVM_REQ_TLB_FLUSH_CURRENT: switching to another root, loading CR3 */
inline flush_current()
{
	seen = deferred;
	d_step { tlb[ctx] = false; old[ctx] = false }
#ifdef ONE_CONTEXT
	up_to = seen
#endif
}

#ifdef DEFER_FIRST
#define DROP	deferred++; spte = false
#else
#define DROP	spte = false; deferred++
#endif

active proctype vcpu()
{
	byte faults = 0, flushes = 0, invlpgs = 0, switches = 0;
	byte seen;

end:	do
	:: request -> flush_all(); request = false
	:: atomic { tlb[ctx] -> assert(!gone) }
	:: atomic { !request && !tlb[ctx] && spte -> tlb[ctx] = true }
	:: switches < 2 -> ctx = !ctx; switches++
	:: flushes < 1 -> flush_current(); flushes++
	:: invlpgs < 2 ->
		/* The guest has changed its page table: what it maps the page by is old. */
		if
		:: marked ->
			lock();
			if
			:: spte -> DROP
			:: else
			fi;
			unlock()
		:: else
		fi;
		if
		:: completed != deferred && up_to != deferred -> flush_all()
		:: else
		fi;
		assert(!old[ctx]);
		invlpgs++
	:: !tlb[ctx] && !spte && !unmapping && faults < 1 ->
		lock();
		if
		:: !unmapping -> spte = true
		:: else
		fi;
		unlock();
		faults++
	od
}

/* Other vCPUs: INVLPG, and CR3. */
active proctype sync()
{
	byte n = 0;

	do
	:: n < 2 ->
		lock();
#ifdef MARK_FIRST
		marked = false;
#endif
		if
		:: spte -> DROP
		:: else
		fi;
#ifndef MARK_FIRST
		if
		:: marked = false
		:: true
		fi;
#endif
		unlock();
		n++
	:: else -> break
	od
}

/* kvm_flush_deferred_tlbs() */
inline pay()
{
	if
	:: completed != deferred ->
		if
		:: up_to != deferred -> request = true; !request
		:: else
		fi;
		completed = deferred
	:: else
	fi
}

/* An MMU notifier. */
active proctype unmap()
{
	byte seen;

	lock();
	unmapping = true;
#ifdef ASK_FIRST
	pay();
#endif
	/* Zapping may yield. */
	unlock();
	lock();
	if
	:: spte ->
		spte = false;
		seen = deferred;
		request = true;
		!request;
		completed = seen
	:: else ->
#ifdef ASK_FIRST
		skip
#else
		pay()
#endif
	fi;
	unlock();
	gone = true
}

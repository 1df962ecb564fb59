/*
 * Deferred TLB flushes: INVLPG drops an SPTE and leaves the flush of other vCPUs' TLBs to whoever
 * flushes next, or to those who rely on SPTEs that don't exist not being cached, e.g. because they
 * give the page back to the host.  The former run with mmu_lock held, or without, the latter hold it.
 *
 * A vCPU fills its TLB from the SPTE, faults the SPTE in (once more), writes by means of its TLB, and
 * flushes it when asked to, before it goes on.
 *
 * What must hold: once the page was given back, no TLB has it.
 *
 * Numbers are modulo MOD: with the whole range of 64 bits, they never wrap.
 *
 * Broken: DEFER_FIRST FLAG TRUNCATED EMPTY_RMAP ASK_FIRST DONE_FIRST COUNT_LATE NO_WAIT
 */
#ifdef TRUNCATED
#define MOD 2			/* as if a number were kept in too small a type */
#else
#define MOD 16
#endif

bool spte = true;
bool tlb = true;
bool request;
bool unmapping;			/* faults have to wait, mmu_invalidate_in_progress */
bool gone;			/* the page was given back */
bool mmu_lock;
byte deferred;
byte completed;

inline lock() { atomic { !mmu_lock -> mmu_lock = true } }
inline unlock() { mmu_lock = false }

active proctype vcpu()
{
	byte faults = 0;

end:	do
	:: atomic { request -> tlb = false; request = false }
	:: atomic { !tlb && spte -> tlb = true }
	:: atomic { tlb -> assert(!gone) }
	:: !spte && !unmapping && faults < 2 ->
		lock();
		if
		:: !unmapping -> spte = true
		:: else
		fi;
		unlock();
		faults++
	od
}

/* kvm_flush_remote_tlbs() */
inline flush(seen)
{
#ifndef COUNT_LATE
	seen = deferred;
#endif
#ifdef FLAG
	deferred = 0;
#endif
#ifdef DONE_FIRST
	completed = seen;
#endif
	request = true;
#ifdef COUNT_LATE
	seen = deferred;
#endif
#ifndef NO_WAIT
	!request;
#endif
#if !defined(DONE_FIRST) && !defined(FLAG)
	completed = seen
#endif
}

#ifdef FLAG
#define IS_DEFERRED	(deferred != 0)
#define DEFER		deferred = 1
#else
#define IS_DEFERRED	(completed != deferred)
#define DEFER		deferred = (deferred + 1) % MOD
#endif

/* Another vCPU that executes INVLPG, for pages that fault in again. */
active proctype invlpg()
{
	byte n = 0;

	do
	:: n < 2 ->
		lock();
		if
		:: spte ->
#ifdef DEFER_FIRST
			DEFER;
			spte = false
#else
			spte = false;
			DEFER
#endif
		:: else
		fi;
		unlock();
		n++
	:: else -> break
	od
}

/* Somebody who flushes for reasons of their own, without mmu_lock, e.g. a harvest of the dirty log. */
active proctype flusher()
{
	byte seen;

	flush(seen)
}

/* An MMU notifier. */
active proctype unmap()
{
	bool owed, zapped;
	byte seen;

	lock();
	unmapping = true;
#ifdef ASK_FIRST
	owed = IS_DEFERRED;
#endif
	/* Zapping may yield. */
	unlock();
	lock();

	zapped = spte;
	spte = false;
#ifdef EMPTY_RMAP
	owed = false;
#elif !defined(ASK_FIRST)
	owed = IS_DEFERRED;
#endif
	if
	:: zapped || owed -> flush(seen)
	:: else
	fi;
	unlock();
	gone = true
}

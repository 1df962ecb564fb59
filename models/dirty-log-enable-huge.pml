/*
 * Switching dirty logging on, with PML, for a huge page of two gfns, against a vCPU that writes
 * and one that splits the huge page, because it fetches from one that must not be executable, or
 * for KVM_PRE_FAULT_MEMORY, i.e. without writing and without marking anything dirty.
 *
 * The memslot's flags are published, and vCPUs that didn't see them are gone, when this begins.
 * Huge pages are write-protected; SPTEs have their D bits cleared, so that the CPU logs the next
 * write; TLBs are flushed; the ioctl returns, and userspace copies all pages.
 *
 * What must hold: a page that is written after it was copied is in the log.
 *
 * D_FIRST is what goes wrong if D bits are cleared before huge pages are write-protected: the
 * CPU sets D of the huge page again, but logs one gfn only, the split hands D on to the other
 * one, and write-protection, which looks for huge pages, passes both.
 *
 * Broken: D_FIRST NO_FLUSH PLAIN_SPLIT
 */
bool huge = true;		/* mapped by the huge page, else by the two small ones */
bool hw = true, hd;		/* W and D of the huge page's SPTE */
bool w[2], d[2];		/* of the small ones */
bool tw[2], td[2];		/* what the writing vCPU's TLB has of W and D */
bool dirty[2];			/* the log */
bool written[2];		/* since the page was copied */
bool stopped;

/* A CMPXCHG: the small SPTEs inherit what the huge one has at that time. */
inline split()
{
	atomic {
		if
		:: huge ->
			w[0] = hw; w[1] = hw;
			d[0] = hd; d[1] = hd;
			huge = false
		:: else
		fi
	}
}

proctype splitter()
{
#ifdef PLAIN_SPLIT
	bool old_w, old_d;

	atomic { old_w = hw; old_d = hd }
	atomic {
		if
		:: huge ->
			w[0] = old_w; w[1] = old_w;
			d[0] = old_d; d[1] = old_d;
			huge = false
		:: else
		fi
	}
#else
	split()
#endif
}

proctype writer()
{
	byte n = 0, p;

	do
	:: n < 3 ->
		n++;
		if
		:: p = 0
		:: p = 1
		fi;
		if
		:: atomic { tw[p] && td[p] -> written[p] = true }
		:: else ->
			/* The CPU looks at the SPTE; one that allows it gets D set, and the gfn logged. */
			atomic {
				if
				:: huge && hw ->
					if
					:: !hd -> hd = true; dirty[p] = true
					:: else
					fi;
					tw[0] = true; td[0] = true;
					tw[1] = true; td[1] = true;
					written[p] = true
				:: !huge && w[p] ->
					if
					:: !d[p] -> d[p] = true; dirty[p] = true
					:: else
					fi;
					tw[p] = true; td[p] = true;
					written[p] = true
				:: else -> goto fault
				fi
			};
			goto next;
fault:
			/* A fault that maps small pages, as the memslot is logged, and marks last. */
			split();
			atomic { w[p] = true; d[p] = true };
			dirty[p] = true;
next:
			skip
		fi
	:: break
	od;
	stopped = true
}

inline protect_huge()
{
	atomic {
		if
		:: huge -> hw = false
		:: else
		fi
	}
}

inline clear_d()
{
	if
	:: atomic { huge -> hd = false }
	:: !huge ->
		d[0] = false;
		d[1] = false
	fi
}

init {
	if
	:: hd = true
	:: skip
	fi;
	if
	:: atomic { tw[0] = true; tw[1] = true; td[0] = hd; td[1] = hd }
	:: skip
	fi;
	run writer();
	run splitter();
#ifdef D_FIRST
	clear_d();
	protect_huge();
#else
	protect_huge();
	clear_d();
#endif
#ifndef NO_FLUSH
	atomic { tw[0] = false; tw[1] = false; td[0] = false; td[1] = false };
#endif
	atomic { written[0] = false; written[1] = false };
	stopped;
	assert((!written[0] || dirty[0]) && (!written[1] || dirty[1]))
}

/*
 * Dirty logging of a huge page with PML is switched on: the huge page is write-protected, and the
 * D-bits of all leaf SPTEs are cleared, in two walks that let vCPUs go on.  One vCPU writes pages, another
 * one splits the huge page without writing it, as a fetch with NX huge pages does, or a prefetch.
 *
 * The CPU logs a write if it sets the D-bit.  SPTEs that a split makes have the huge page's W
 * and D.  A write fault splits the huge page, makes the page writable, and marks it.
 *
 * What must hold when both walks are done, and TLBs were flushed: a page that can be written without
 * being logged is in the log.
 *
 * Broken: CLEAR_FIRST
 */
#define PAGES 2

bool huge = true;
/* Of the huge page, and of the 4KiB pages once it is split. */
bool huge_w = true, huge_d = true;
bool w[PAGES], d[PAGES];
bool logged[PAGES];
byte running = 2;

inline split()
{
	if
	:: huge ->
		huge = false;
		w[0] = huge_w; w[1] = huge_w;
		d[0] = huge_d; d[1] = huge_d
	:: !huge
	fi
}

inline write(i)
{
	if
	:: huge && huge_w ->
		logged[i] = logged[i] || !huge_d;
		huge_d = true
	:: !huge && w[i] ->
		logged[i] = logged[i] || !d[i];
		d[i] = true
	:: huge && !huge_w || !huge && !w[i] ->
		split();
		w[i] = true;
		d[i] = true;
		logged[i] = true
	fi
}

active proctype writer()
{
	do
	:: atomic { write(0) }
	:: atomic { write(1) }
	:: break
	od;
	running--
}

active proctype fetcher()
{
	if
	:: atomic { split() }
	:: skip
	fi;
	running--
}

inline protect_huge()
{
	atomic {
		if
		:: huge -> huge_w = false
		:: else
		fi
	}
}

/* Steps down into the page table if there is one by the time it gets there. */
inline clear_dirty()
{
	if
	:: atomic { huge -> huge_d = false }
	:: !huge ->
		d[0] = false;
		d[1] = false
	fi
}

active proctype enable()
{
#ifdef CLEAR_FIRST
	clear_dirty();
	protect_huge();
#else
	protect_huge();
	clear_dirty();
#endif
	running == 0;
	assert(huge && (!huge_w || !huge_d) ||
	       !huge && (!(w[0] && d[0]) || logged[0]) && (!(w[1] && d[1]) || logged[1]))
}

# shellcheck shell=bash
# scripts/stack send TOPIC -o DIR [--tree DIR] [-v N [--previous REF]] [--dry-run] - the mails of a topic
#
# Writes them to DIR, for review; sends nothing. The cover letter is the topic's section of
# COVER-LETTER.md, To and Cc are get_maintainer.pl's, TOPIC.mbox is what b4 am takes. Refuses
# patches whose author has not signed them off, unless --dry-run.
#
# With --tree: a tree that the stack, or the topic and those it needs, was applied to, e.g.
# kvm-x86/next, so that the mails name a base that their readers have.
#
# With -v N: version N of it. From 2 on, its section in COVER-LETTER.md must have a line "Changes in
# vN:", and one "- Link to vM: https://lore.kernel.org/r/...", M being N-1. --previous adds a
# range-diff: a REF or REF..REF in the tree, that of version M.

# cover_of TOPIC: its section of COVER-LETTER.md, the subject first. Paragraphs are wrapped as
# mails are, tables and links stay as they are.
cover_of() {
	local line text=
	wrap() {
		[[ ! $text ]] || fmt -c -w 75 <<<"${text%$'\n'}"
	}

	sed -n "/^## $1\$/,/^## /{/^## /d; p}" "$ROOT/COVER-LETTER.md" | sed '/./,$!d' | {
		while IFS= read -r line; do
			if [[ $line =~ ^(\||\[[0-9]+\]\ |-\ |$) ]]; then
				wrap
				text=
			fi
			if [[ $line =~ ^(\||\[|$) ]]; then
				printf '%s\n' "$line"
			else
				text+=$line$'\n'
			fi
		done
		wrap
	}
}

# topic_people DIR OPTION...: who get_maintainer.pl, with its options, names for the topic's patches.
topic_people() {
	local dir=$1
	shift

	(cd "$dir" && select_patches "$topic" '' | sed "s,^,$ROOT/patches/," |
		no_dotfiles xargs scripts/get_maintainer.pl --no-git --no-git-fallback --norolestats "$@")
}

# check_signed FILE: the author, who can be asked, says so with a Signed-off-by.
check_signed() {
	local author

	author=$(sed -n 's/^From: .*<\(.*\)>$/\1/p;/^$/q' "$ROOT/patches/$1")
	sed -n '/^Signed-off-by: /p' "$ROOT/patches/$1" | grep -F "<$author>" >/dev/null
}

# commits_of_topic DIR BASE TOPIC: its commits in DIR, in order. What else is there, is of series, too.
commits_of_topic() {
	local dir=$1 base=$2 topic=$3 p commit id
	local -A patch=() found=()

	while read -r id p; do
		patch[$id]=$p
	done < <(for p in "${PATCHES[@]}"; do echo "$(patch_ids <"$ROOT/patches/$p") $p"; done)
	while read -r commit id; do
		p=${patch[$id]-}
		[[ $p ]] || die $E_ENV "$dir has a commit that is no patch of series: $(git -C "$dir" log -1 --format='%h %s' "$commit"): apply or export first"
		found[$p]=$commit
	done < <(git -C "$dir" rev-list --reverse "$base..HEAD" | git -C "$dir" diff-tree --no-ext-diff --stdin -p -M |
		git patch-id --stable | awk '{ print $2, $1 }')
	while read -r p; do
		[[ ${found[$p]-} ]] ||
			die $E_ENV "$dir lacks $p: scripts/stack apply --tree $dir, with --topic $topic or, if that needs others, those before it"
		echo "${found[$p]}"
	done < <(select_patches "$topic" '')
}

# stands_after DIR BASE TOPIC: what the cover letter says of the topics that TOPIC needs.
stands_after() {
	local t list=''

	for t in $(needed_topics "$1" "$2" "$3"); do
		list+="${list:+, }\"$(cover_of "$t" | sed -n 1p)\""
	done
	[[ -z $list ]] || echo "Applies after: $list"
}

verb_send() {
	local topic='' out='' dir=$LINUX dry='' version=1 previous='' base p cover after commits people options=() maintainers=() lists=()

	while (($#)); do
		case $1 in
		-o) out=${2-}; shift 2 || die $E_USAGE "-o wants a directory" ;;
		-v) version=${2-}; shift 2 || die $E_USAGE "-v wants a number" ;;
		--previous) previous=${2-}; shift 2 || die $E_USAGE "--previous wants a commit, or two: REF..REF" ;;
		--tree) dir=${2-}; shift 2 || die $E_USAGE "--tree wants a directory" ;;
		--dry-run) dry=1; shift ;;
		-*) die $E_USAGE "send: unknown option '$1'" ;;
		*) [[ -z $topic ]] || die $E_USAGE "send takes one topic"; topic=$1; shift ;;
		esac
	done
	[[ $topic && $out ]] || die $E_USAGE "send wants a topic, and -o DIR for its mails"
	[[ $version =~ ^[1-9][0-9]*$ ]] || die $E_USAGE "-v wants a number from 1 on, not '$version'"
	((version > 1)) || [[ -z $previous ]] || die $E_USAGE "--previous goes with -v 2 and later"
	if [[ -e $out && $(ls -A "$out") ]]; then
		die $E_USAGE "$out is not empty"
	fi
	need_packages git perl
	[[ $dir == "$LINUX" ]] && need_base
	need_tree "$dir"
	base=$(base_ref "$dir") || die $E_USAGE "$dir has no recorded base: scripts/stack base --tree $dir, then apply --tree"
	read_series
	select_patches "$topic" '' >/dev/null
	[[ ${STATUS_OF[$topic]+set} ]] || die $E_USAGE "send takes one topic, not a pattern of '$topic'"

	commits=$(commits_of_topic "$dir" "$base" "$topic")
	mapfile -t commits <<<"$commits"
	if [[ -z $dry ]]; then
		while read -r p; do
			check_signed "$p" ||
				die $E_STACK "$p: no Signed-off-by of its author. Who submits it, certifies it, and is its author: see README"
		done < <(select_patches "$topic" '')
	fi
	cover=$(cover_of "$topic")
	[[ $cover ]] || die $E_STACK "COVER-LETTER.md has no section '## $topic'"
	if ((version > 1)); then
		grep -qx "Changes in v$version:" <<<"$cover" && grep -qE "^- Link to v$((version - 1)): https://" <<<"$cover" ||
			die $E_STACK "COVER-LETTER.md, '## $topic': version $version wants a line 'Changes in v$version:' and one '- Link to v$((version - 1)): https://lore.kernel.org/r/...'"
		options+=("--reroll-count=$version")
	fi
	if [[ $previous ]]; then
		git -C "$dir" rev-parse -q --verify "${previous#*..}^{commit}" >/dev/null || die $E_USAGE "--previous: no commit '$previous' in $dir"
		options+=("--range-diff=$previous")
	fi
	after=$(stands_after "$dir" "$base" "$topic")
	[[ -z $after ]] || cover+=$'\n\n'$(fmt -w 75 <<<"$after")

	! git -C "$dir" rev-parse -q --verify "refs/heads/send/$topic" >/dev/null ||
		die $E_ENV "branch send/$topic of $dir is in the way, and would be lost: git -C $dir branch -m send/$topic NAME, then again"
	people=$(topic_people "$dir" --nol --nor && echo -- && topic_people "$dir" --nom) ||
		die $E_ENV "scripts/get_maintainer.pl failed in $dir: nobody to send to"
	mapfile -t maintainers < <(sed '/^--$/,$d' <<<"$people")
	mapfile -t lists < <(sed '1,/^--$/d' <<<"$people")
	mkdir -p "$out"
	out=$(cd "$out" && pwd)
	# A branch, as git takes the cover letter from its description.
	git -C "$dir" branch -q "send/$topic" "${commits[-1]}"
	git -C "$dir" -c "branch.send/$topic.description=$cover" format-patch -q -o "$out" --base="$base" --thread=shallow \
		--src-prefix=a/ --dst-prefix=b/ \
		--cover-letter --cover-from-description=subject ${options[@]+"${options[@]}"} \
		"$([[ ${STATUS_OF[$topic]} == RFC* ]] && echo --rfc || echo --subject-prefix=PATCH)" \
		"${maintainers[@]/#/--to=}" "${lists[@]/#/--cc=}" "${commits[0]}^..send/$topic" ||
		{ git -C "$dir" branch -q -D "send/$topic"; die $E_ENV "git format-patch failed in $dir"; }
	git -C "$dir" branch -q -D "send/$topic"
	# Debian 12's b4 fails on an author or a subject that is folded.
	sed -i -E '1,/^$/{:again; /^(From|Subject): /{N; s/\n / /; t again; P; D}}' "$out"/*.patch
	p=$(awk 'FNR > 1 && /^From / { print FILENAME; exit }' "$out"/*.patch)
	if [[ $p ]]; then
		rm "$out"/*.patch
		die $E_STACK "${p##*/}: a line begins with 'From ', where mailboxes are split: word it differently"
	fi
	cat "$out"/*.patch >"$out/$topic.mbox"
	[[ $dir != "$LINUX" ]] || say "the base-commit is build/linux's own: for the list, apply to a tree that has it, and --tree"
	say "${#commits[@]} patches and a cover letter in $out${dry:+; a dry run, nobody has certified them}"
}

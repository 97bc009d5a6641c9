//! Which examples ride in one pass, and what all of them begin with.

use crate::task::EncodedExample;

/// A beginning that all examples share is computed once if it has at least this many tokens: demonstrations do.
const SHORTEST_SHARED: usize = 16;

/// Divides items of these sizes into groups of at most `capacity`, or of one item: the largest first, each into the first
/// group that has room (first-fit decreasing). Equal sizes keep their order.
pub(super) fn pack(sizes: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&item| std::cmp::Reverse(sizes[item]));
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    // Groups before this one have no room for anything.
    let mut first_open = 0;
    let smallest = sizes.iter().min().copied().unwrap_or_default();
    for item in order {
        let size = sizes[item];
        match groups[first_open..].iter_mut().find(|(used, _)| used + size <= capacity) {
            Some((used, group)) => {
                *used += size;
                group.push(item);
            }
            None => groups.push((size, vec![item])),
        }
        while groups.get(first_open).is_some_and(|(used, _)| used + smallest > capacity) {
            first_open += 1;
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The number of tokens that an example's candidates take in a pass, of which its first `skipped` are computed elsewhere.
pub(super) fn fed_tokens(example: &EncodedExample, skipped: usize) -> usize {
    let shared = example.shared_prefix_len();
    let answers = example.candidates.iter().map(|candidate| candidate.ids.len().saturating_sub(1).max(shared) - shared);
    shared - skipped + answers.sum::<usize>()
}

/// The tokens that all examples begin with, if it is worth while to compute them once: without any token that predicts
/// one of an answer.
pub(super) fn common_beginning(examples: &[EncodedExample]) -> &[u32] {
    longest_common(examples.iter().map(before_predictions))
}

/// What all candidates of an example begin with, without any token that predicts one of an answer.
fn before_predictions(example: &EncodedExample) -> &[u32] {
    let contexts = example.candidates.iter().map(|candidate| candidate.context_len() - 1);
    let length = example.shared_prefix_len().min(contexts.min().unwrap_or_default());
    example.candidates.first().map_or(&[], |candidate| &candidate.ids[..length])
}

/// The tokens that all prompts begin with, if it is worth while to compute them once: without the last of any.
pub(super) fn common_beginning_of_prompts(prompts: &[Vec<u32>]) -> &[u32] {
    longest_common(prompts.iter().map(|prompt| &prompt[..prompt.len().saturating_sub(1)]))
}

/// What several sequences begin with, or nothing if that is too short.
fn longest_common<'a>(mut sequences: impl ExactSizeIterator<Item = &'a [u32]>) -> &'a [u32] {
    if sequences.len() < 2 {
        return &[];
    }
    let first = sequences.next().unwrap_or_default();
    let common = sequences.fold(first, |common, other| {
        let same = common.iter().zip(other).take_while(|(left, right)| left == right).count();
        &common[..same]
    });
    if common.len() >= SHORTEST_SHARED { common } else { &[] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::EncodedCandidate;
    use proptest::prelude::*;

    fn example(prompt: &[u32], answers: &[&[u32]]) -> EncodedExample {
        let candidate = |answer: &&[u32]| EncodedCandidate::new([prompt, answer].concat(), answer.len());
        EncodedExample { candidates: answers.iter().map(candidate).collect(), golds: vec![0], line: 1 }
    }

    #[test]
    fn groups_are_filled_and_the_largest_come_first() {
        assert_eq!(pack(&[3, 7, 2, 5, 12, 3], 10), [vec![4], vec![1, 0], vec![3, 5, 2]]);
        assert_eq!(pack(&[], 10), Vec::<Vec<usize>>::new());
    }

    proptest! {
        #[test]
        fn every_item_is_in_one_group_and_no_group_is_too_large(
            sizes in prop::collection::vec(1_usize..50, 0..200),
            capacity in 1_usize..120,
        ) {
            let groups = pack(&sizes, capacity);
            let mut items = groups.concat();
            items.sort_unstable();
            prop_assert_eq!(items, (0..sizes.len()).collect::<Vec<_>>());
            for group in &groups {
                prop_assert!(group.len() == 1 || group.iter().map(|&item| sizes[item]).sum::<usize>() <= capacity);
            }
        }
    }

    #[test]
    fn tokens_count_once_and_the_last_of_an_answer_predicts_nothing() {
        let example = example(&[1, 2, 3], &[&[4], &[5, 6, 7]]);
        assert_eq!(fed_tokens(&example, 0), 3 + 2);
        assert_eq!(fed_tokens(&example, 2), 1 + 2);
    }

    #[test]
    fn the_common_beginning_ends_before_the_token_that_predicts_an_answer() {
        let prompt: Vec<u32> = (0..20).collect();
        let longer: Vec<u32> = (0..25).collect();
        let one = example(&prompt, &[&[30], &[31, 32]]);
        let other = example(&longer, &[&[30], &[31, 32]]);
        assert_eq!(common_beginning(&[one.clone(), other.clone()]), &prompt[..19]);
        assert_eq!(common_beginning(&[other.clone(), one.clone()]), &prompt[..19]);
        let different = example(&[&prompt[..18], &[99, 98, 97]].concat(), &[&[30], &[31]]);
        assert_eq!(common_beginning(&[one.clone(), different]), &prompt[..18]);
        // One example shares with nobody; too little is not worth while.
        assert!(common_beginning(std::slice::from_ref(&one)).is_empty());
        assert!(common_beginning(&[one, example(&prompt[..10], &[&[30], &[31]])]).is_empty());
    }
}

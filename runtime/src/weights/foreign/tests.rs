use super::*;

#[test]
fn blocks_are_found_by_shape_and_config() {
    let shape = [96, 64];
    assert_eq!(block(shape, &[], None), Some([96, 64]));
    assert_eq!(block(shape, &[1], Some([128, 128])), Some([96, 64]));
    assert_eq!(block(shape, &[96], None), Some([1, 64]));
    assert_eq!(block(shape, &[96, 1], None), Some([1, 64]));
    assert_eq!(block(shape, &[2, 2], Some([64, 32])), Some([64, 32]));
    assert_eq!(block(shape, &[3, 2], None), Some([32, 32]));
    assert_eq!(block(shape, &[3, 1], None), Some([32, 64]));
    // 96 rows in blocks of 64 give two, the last one shorter. Without a config they would be
    // blocks of 48.
    assert_eq!(block(shape, &[2, 1], Some([64, 128])), Some([64, 128]));
    assert_eq!(block(shape, &[2, 1], None), Some([48, 64]));
    for wrong in [&[95][..], &[0], &[0, 0], &[7, 5], &[97, 1], &[96, 1, 1], &[usize::MAX, 1]] {
        assert_eq!(block(shape, wrong, Some([64, 32])), None, "{wrong:?}");
    }
    assert_eq!(block(shape, &[2, 2], Some([0, 0])), Some([48, 32]));
    assert_eq!(block([0, 0], &[2, 2], None), None);
}

#[test]
fn groups_are_as_stated_or_equal() {
    assert_eq!(group_size(96, 2, Some(64)), Some(64));
    assert_eq!(group_size(96, 2, None), Some(48));
    assert_eq!(group_size(96, 3, Some(64)), Some(32));
    assert_eq!(group_size(96, 1, None), Some(96));
    assert_eq!(group_size(96, 0, Some(64)), None);
    assert_eq!(group_size(96, 200, None), None);
}

#[test]
fn results_are_in_order() {
    let items: Vec<usize> = (0..1000).collect();
    let squares = in_parallel(&items, |n| n * n);
    assert!(squares.iter().enumerate().all(|(i, square)| *square == i * i));
    assert!(in_parallel(&[] as &[usize], |n| *n).is_empty());
}

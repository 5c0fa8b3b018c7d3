//! Columns.

/// The least that a column is wide, and what is put between it and the next one: those of Docker.
const LEAST: usize = 10;
const BETWEEN: usize = 3;

/// Aligns `text`, whose cells end in tabs, as Go's tabwriter does: what stands behind a line's last tab belongs to no
/// column, and a column reaches over as many neighbouring lines as have a cell in it. Widths are counted in characters.
pub fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    // The width that each cell is filled up to; the last cell of a line has none.
    let mut widths: Vec<Vec<usize>> =
        lines.iter().map(|cells| cells.iter().skip(1).map(|_| 0).collect::<Vec<_>>()).collect();
    let columns = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut start = 0;
        while start < widths.len() {
            let block = widths.get(start..).unwrap_or_default();
            let length = block.iter().take_while(|line| line.len() > column).count();
            let cells = lines.iter().skip(start).take(length).filter_map(|line| line.get(column));
            let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            let width = (widest + BETWEEN).max(LEAST);
            for line in widths.iter_mut().skip(start).take(length) {
                line.get_mut(column).into_iter().for_each(|w| *w = width);
            }
            start += length.max(1);
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (n, (cells, widths)) in lines.iter().zip(&widths).enumerate() {
        if n > 0 {
            out.push('\n');
        }
        for (column, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths.get(column) {
                let filled = cell.chars().count();
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(filled)));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_at_least_ten_wide_and_three_apart() {
        let text = "REPOSITORY\tTAG\tIMAGE ID\tSIZE\nmine\tbookworm-slim\t0123456789ab\t1kB\n";
        let aligned =
            "REPOSITORY   TAG             IMAGE ID       SIZE\nmine         bookworm-slim   0123456789ab   1kB\n";
        assert_eq!(align(text), aligned);
        assert_eq!(align("a\tb\n"), "a         b\n");
        assert_eq!(align("ä\tb\n"), "ä         b\n");
    }

    #[test]
    fn a_column_ends_where_a_line_has_no_cell_in_it() {
        assert_eq!(
            align("aaaaaaaaaaaaaaaaaaaa\tb\nno cell\nc\td\n"),
            "aaaaaaaaaaaaaaaaaaaa   b\nno cell\nc         d\n"
        );
    }
}

#pragma once
/// \file
/// The page of a report: template, style and scripts, which the build bundles with the plotting library (Vega) from its
/// installed package. What the page expects of its data is said in docs/report.md.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace evictsim::analysis {

/// The page with three placeholders, each exactly once: `@EVICTSIM_TITLE@` (text escaped for HTML),
/// `@EVICTSIM_ENCODING@` (`json` or `deflate`) and `@EVICTSIM_DATA@` (the data, so encoded). Everything else of it is
/// fixed, which its content security policy pins by hashes. Empty in a build without the plotting library.
std::string_view page_template();

/// What a build without the plotting library lacks, as one clause of an error message.
std::string_view page_template_hint();

/// Figures of the report with that JSON as (file name, SVG text), in the page's order and from the page's
/// specifications, drawn by the program `node`. Throws Error(unsupported) in a build without the plotting library and
/// where there is no `node`, Error(invalid_value) when it cannot read the report, Error(io_failure).
std::vector<std::pair<std::string, std::string>> report_figures(const std::string& json);

}  // namespace evictsim::analysis

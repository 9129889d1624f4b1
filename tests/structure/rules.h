#pragma once
/// \file
/// The rules of CONTRIBUTING.md that a program can check on source text.

#include <string>
#include <vector>

namespace evictsim::tests {

/// One file of the tree: its path from the root with '/' and its whole text.
struct SourceFile {
  std::string path;
  std::string text;
};

/// `text` with comments blanked and, unless `keep_strings`, the contents of string and character literals blanked too.
/// Line breaks stay, so line numbers do as well.
std::string without_comments(const std::string& text, bool keep_strings);

/// Every breach of a rule in one source file, each as "path:line: rule", in line order.
std::vector<std::string> check_source(const SourceFile& file);

/// Sources that no CMakeLists.txt lists: `lists` are the CMakeLists.txt files; a source must be named, relative to the
/// list, by one in its own folder or in a folder above.
std::vector<std::string> check_listed(const std::vector<SourceFile>& sources, const std::vector<SourceFile>& lists);

}  // namespace evictsim::tests

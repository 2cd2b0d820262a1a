// A file that is read or written by position; errors come back as Status with errno.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "status.h"

namespace fleet {

class File {
 public:
  File() = default;
  ~File();  // closes; deletes the file if it was created and not finished
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  // Creates `path`, or empties it, with room reserved for `bytes`.
  Status create(const std::string& path, uint64_t bytes) noexcept;
  Status open(const std::string& path) noexcept;

  Status write_at(uint64_t offset, const void* data, size_t bytes) noexcept;
  // Damaged if the file ends before.
  Status read_at(uint64_t offset, void* data, size_t bytes) noexcept;

  // Writes everything to the disk and keeps the file.
  Status finish() noexcept;

  uint64_t size() const { return size_; }

 private:
  std::string path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
  bool unfinished_ = false;
};

}  // namespace fleet

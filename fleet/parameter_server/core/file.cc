#include "file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace fleet {

namespace {

Status failure(int error_number, const char* what) { return Status::io(error_number, std::string(std::strerror(error_number)) + " (" + what + ")"); }

constexpr size_t kPiece = size_t{1} << 30;  // Linux moves at most 2 GB in one call

}  // namespace

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (unfinished_) ::unlink(path_.c_str());
}

Status File::create(const std::string& path, uint64_t bytes) noexcept {
  path_ = path;
  size_ = bytes;
  descriptor_ = ::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  if (descriptor_ < 0) return failure(errno, "creating the file");
  unfinished_ = true;
  // A full disk is noticed here, before the work. EOPNOTSUPP: this file system cannot reserve room.
  const int error_number = ::posix_fallocate(descriptor_, 0, static_cast<off_t>(bytes));
  if (error_number != 0 && error_number != EOPNOTSUPP && error_number != EINVAL) return failure(error_number, "reserving room");
  return {};
}

Status File::open(const std::string& path) noexcept {
  path_ = path;
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) return failure(errno, "opening the file");
  struct stat about;
  if (::fstat(descriptor_, &about) != 0) return failure(errno, "asking for its size");
  if (!S_ISREG(about.st_mode)) return failure(S_ISDIR(about.st_mode) ? EISDIR : EINVAL, "not a regular file");
  size_ = static_cast<uint64_t>(about.st_size);
#ifdef POSIX_FADV_SEQUENTIAL
  ::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_SEQUENTIAL);
#endif
  return {};
}

Status File::write_at(uint64_t offset, const void* data, size_t bytes) noexcept {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::pwrite(descriptor_, from, std::min(bytes, kPiece), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return failure(errno, "writing");
    from += written;
    offset += static_cast<uint64_t>(written);
    bytes -= static_cast<size_t>(written);
  }
  return {};
}

Status File::read_at(uint64_t offset, void* data, size_t bytes) noexcept {
  char* to = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = ::pread(descriptor_, to, std::min(bytes, kPiece), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failure(errno, "reading");
    if (got == 0) return Status::damaged("the file ends at byte " + std::to_string(offset) + ", in the middle of its data");
    to += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<size_t>(got);
  }
  return {};
}

Status File::finish() noexcept {
  if (::fsync(descriptor_) != 0) return failure(errno, "writing to the disk");
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (::close(descriptor) != 0) return failure(errno, "closing");
  unfinished_ = false;
  return {};
}

}  // namespace fleet
